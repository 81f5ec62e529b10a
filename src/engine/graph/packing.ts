/**
 * How frozen weights are held in fewer bytes than f32, and read inside the kernels that multiply by them (QLoRA's role:
 * Dettmers et al. 2023, arXiv 2305.14314, §3). Numbers are taken in their flat, row-major order: f16 as two halves a word, the
 * others in blocks of 32 or 64, a word for the block in front of those with its codes q:
 *
 *           codes a word   in front                          value
 *   int8    4              f32 of largest magnitude m        m · q / 127
 *   uint8   4              two halves, range r and least l   l + r · q / 255
 *   int4    8              f32 of largest entry / −8, d      d · (q − 8): llama.cpp's Q4_0
 *   uint4   8              two halves, step d and least l    l + d · q: llama.cpp's Q4_1
 *   nf4     8              f32 of largest magnitude m        m · NF4[q]
 *
 * A kind's name alone is the dtype in the block that it has where nobody asks for another (32; 64 of uint8 and nf4); in the
 * other block the dtype says so, as int8_64 does.
 *
 * uint8 and uint4 have a zero point of their own, −l in steps, which need not be a whole number (HQQ's choice, and Q4_1's): a
 * block whose numbers lean to one side wastes no codes on the other.
 *
 * Words are u32 and every kind is read by core WGSL: no device feature is needed. A block's scale lies beside its numbers,
 * so that a window of rows is a window of words.
 */
import { f32 } from '../ops/wgsl.ts';

const BLOCK_SIZES = [32, 64] as const;
export type BlockSize = (typeof BLOCK_SIZES)[number];

/** Codes a word, and numbers of a block where nobody asks for another. */
const KINDS = {
  int8: { codes: 4, block: 32 },
  uint8: { codes: 4, block: 64 },
  int4: { codes: 8, block: 32 },
  uint4: { codes: 8, block: 32 },
  nf4: { codes: 8, block: 64 },
} as const;
export type BlockKind = keyof typeof KINDS;
export type PackedKind = 'f16' | BlockKind;

export type PackedDType =
  'f16' | { [K in BlockKind]: K | `${K}_${Exclude<BlockSize, (typeof KINDS)[K]['block']>}` }[BlockKind];

/** The dtype of a kind in blocks of so many; halves have none. */
export function packedAs(kind: PackedKind, block?: BlockSize): PackedDType {
  const own = kind === 'f16' || block === undefined || block === KINDS[kind].block;
  return own ? kind : (`${kind}_${block}` as PackedDType);
}

export interface Block {
  readonly kind: PackedKind;
  /** Numbers of a block, and the words that hold them. */
  readonly numbers: number;
  readonly words: number;
}

export const BLOCKS = Object.fromEntries<Block>([
  ['f16', { kind: 'f16', numbers: 2, words: 1 }],
  ...(Object.keys(KINDS) as BlockKind[]).flatMap((kind) =>
    BLOCK_SIZES.map((numbers): [PackedDType, Block] => [
      packedAs(kind, numbers),
      { kind, numbers, words: 1 + numbers / KINDS[kind].codes },
    ]),
  ),
]) as Readonly<Record<PackedDType, Block>>;

/** Quantiles of a normal distribution, scaled to ±1, zero among them (QLoRA, appendix E). */
export const NF4: readonly number[] = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

export function isPacked(dtype: string): dtype is PackedDType {
  return dtype in BLOCKS;
}

/** 32-bit words that hold so many numbers; the last block may be part empty. */
export function packedWords(dtype: PackedDType, numbers: number): number {
  const block = BLOCKS[dtype];
  return Math.ceil(numbers / block.numbers) * block.words;
}

/** WGSL that reads an array of weights, however it is held. Expressions are flat indices of numbers, u32. */
export interface WeightReader {
  /** Element type of the array. */
  readonly element: string;
  /** Functions to put in front of the kernel. */
  readonly functions: string;
  readonly one: (at: string) => string;
  /** Two numbers from an even index: vec2<f32>. */
  readonly two: (at: string) => string;
  /** Four numbers from an index that four divides: vec4<f32>. */
  readonly four: (at: string) => string;
}

/**
 * @param name the variable of the array; @param width what `element` shall hold where the array is f32
 * @param halves read f16 by loads of f16 (`shader-f16`), which give the same numbers
 */
export function weightReader(name: string, dtype: string, width: 1 | 2 | 4, halves = false): WeightReader {
  if (!isPacked(dtype) || halves) {
    const of = (scalar: string): string => (width === 1 ? scalar : `vec${width}<${scalar}>`);
    const entry = (at: string): string => `${name}[${width === 1 ? at : over(`(${at})`, width)}]`;
    const read = halves ? (at: string): string => `${of('f32')}(${entry(at)})` : entry;
    return { element: of(halves ? 'f16' : 'f32'), functions: '', one: read, two: read, four: read };
  }
  const call = (count: number) => (at: string) => `${name}_${count}(${at})`;
  const block = BLOCKS[dtype];
  return { element: 'u32', functions: READERS[block.kind](name, block), one: call(1), two: call(2), four: call(4) };
}

const READERS: Record<PackedKind, (name: string, block: Block) => string> = {
  f16: (name) => `fn ${name}_1(i: u32) -> f32 { return unpack2x16float(${name}[i >> 1u] >> (16u * (i & 1u))).x; }
fn ${name}_2(i: u32) -> vec2<f32> { return unpack2x16float(${name}[i >> 1u]); }
fn ${name}_4(i: u32) -> vec4<f32> { return vec4<f32>(${name}_2(i), ${name}_2(i + 2u)); }
`,
  int8: (name, block) => byteReader(name, block, SCALE, (word) => `scale * unpack4x8snorm(${word})`),
  uint8: (name, block) => byteReader(name, block, RAMP, (word) => `ramp.y + ramp.x * unpack4x8unorm(${word})`),
  int4: (name, block) => nibbleReader(name, block, SCALE, (q) => `scale * (${q} - 8.0)`),
  uint4: (name, block) => nibbleReader(name, block, RAMP, (q) => `ramp.y + ramp.x * ${q}`),
  nf4: (name, block) => `const ${name}_codes = array<f32, 16>(${NF4.map(f32).join(', ')});
fn ${name}_code4(q: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(${['x', 'y', 'z', 'w'].map((i) => `${name}_codes[u32(q.${i})]`).join(', ')});
}
fn ${name}_code2(q: vec2<f32>) -> vec2<f32> { return vec2<f32>(${name}_codes[u32(q.x)], ${name}_codes[u32(q.y)]); }
fn ${name}_code1(q: f32) -> f32 { return ${name}_codes[u32(q)]; }
${nibbleReader(name, block, SCALE, (q, count) => `scale * ${name}_code${count}(${q})`)}`,
};

/** A quotient by a power of two as a shift: SwiftShader divides by constants lane by lane. */
const over = (at: string, divisor: number): string => `(${at} >> ${Math.log2(divisor)}u)`;

/** What stands before a block's numbers. */
const SCALE = (word: string): string => `let scale = bitcast<f32>(${word});`;
const RAMP = (word: string): string => `let ramp = unpack2x16float(${word});`;

/** Four numbers a word. @param value of the four in a word, as WGSL */
function byteReader(
  name: string,
  { numbers, words }: Block,
  head: (word: string) => string,
  value: (word: string) => string,
): string {
  const body = (result: (word: string) => string): string => `  let block = ${over('i', numbers)} * ${words}u;
  ${head(`${name}[block]`)}
  return ${result(`${name}[block + 1u + ${over(`(i & ${numbers - 1}u)`, 4)}]`)};`;
  return `fn ${name}_4(i: u32) -> vec4<f32> {
${body(value)}
}
fn ${name}_2(i: u32) -> vec2<f32> {
${body((word) => `(${value(`${word} >> (8u * (i & 2u))`)}).xy`)}
}
fn ${name}_1(i: u32) -> f32 {
${body((word) => `(${value(`${word} >> (8u * (i & 3u))`)}).x`)}
}
`;
}

/** Eight numbers a word. @param value of one, two or four codes from 0 to 15, as WGSL */
function nibbleReader(
  name: string,
  { numbers, words }: Block,
  head: (word: string) => string,
  value: (q: string, count: 1 | 2 | 4) => string,
): string {
  const start = (within: number): string => `  let block = ${over('i', numbers)} * ${words}u;
  ${head(`${name}[block]`)}
  let word = ${name}[block + 1u + ${over(`(i & ${numbers - 1}u)`, 8)}] >> (4u * (i & ${within}u));`;
  return `fn ${name}_4(i: u32) -> vec4<f32> {
${start(4)}
  let q = (vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
  return ${value('vec4<f32>(q)', 4)};
}
fn ${name}_2(i: u32) -> vec2<f32> {
${start(6)}
  let q = (vec2<u32>(word) >> vec2<u32>(0u, 4u)) & vec2<u32>(15u);
  return ${value('vec2<f32>(q)', 2)};
}
fn ${name}_1(i: u32) -> f32 {
${start(7)}
  return ${value('f32(word & 15u)', 1)};
}
`;
}
