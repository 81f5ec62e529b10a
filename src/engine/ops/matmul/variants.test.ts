/**
 * Every variant that a device may be given, against float64 and against each other: plain products, products added to what
 * is in the output, to another matrix or to a row, and within operands that are larger than the product (windows.ts). No other
 * form exists: activations are ops of their own.
 */
import { describe, expect, it } from 'vitest';
import { pack, unpack } from '../../../formats/pack-weights.ts';
import { BLOCKS, type PackedDType } from '../../graph/packing.ts';
import { Graph } from '../../graph/graph.ts';
import type { Dispatch, KernelContext, OpDefinition } from '../../graph/types.ts';
import { plan } from '../../plan/plan.ts';
import type { Device } from '../../run/device.ts';
import { Arena, Program } from '../../run/program.ts';
import { expectClose, floats, testDevice, type OpInput } from '../../testing.ts';
import { matmulDispatch, type MatmulWindow } from './kernel.ts';
import { matmulOp } from './matmul.ts';
import { variantsOf } from './variants.ts';

const layouts = [
  { transA: false, transB: true },
  { transA: false, transB: false },
  { transA: true, transB: false },
  { transA: true, transB: true },
];
type Layout = (typeof layouts)[number];
type Sizes = readonly [M: number, N: number, K: number];

interface Form {
  readonly name: string;
  readonly accumulate: boolean;
  /** Whether the sums begin with a matrix or a row of their own. */
  readonly onto?: 'all' | 'row';
  /** Rows of B before its window, and columns of A and of the output before theirs: windows begin at multiples of 64. */
  readonly before: 0 | 64;
}
const PLAIN: Form = { name: '=', accumulate: false, before: 0 };
const ADDED: Form = { name: '+=', accumulate: true, before: 0 };
const ONTO: Form = { name: 'onto', accumulate: false, onto: 'all', before: 0 };
const ONTO_ROW: Form = { name: 'onto a row', accumulate: false, onto: 'row', before: 0 };
const WITHIN: Form = { name: '+= in a window', accumulate: true, before: 64 };

/** out = A·B or out += A·B of a window of each, as one dispatch. */
function product({ accumulate, onto, before }: Form, { transA, transB }: Layout, [M, N, K]: Sizes): OpDefinition {
  return {
    name: 'product',
    packed: [1],
    inPlace: { 0: 2 },
    infer: ([, , out]) => [out!],
    cost: () => ({ flops: 2 * M * N * K, bytes: 0 }),
    kernel: ({ inputs: [a, b, out, begin], limits }: KernelContext): Dispatch[] => [
      matmulDispatch({
        a: a!,
        b: b!,
        out: out!,
        onto: onto && { operand: begin!, offset: 0, row: onto === 'row' },
        ...{ M, N, K, transA, transB, accumulate, limits },
        offsets: { a: before, b: before * (transB ? K : N), out: before },
        strides: { a: (transA ? M : K) + before, out: N + before },
      }),
    ],
  };
}

/** What that gives in float64. */
function expected(
  { accumulate, onto, before }: Form,
  layout: Layout,
  [M, N, K]: Sizes,
  [a, b, out, begin]: readonly [OpInput, ArrayLike<number>, OpInput, OpInput],
): Float64Array {
  const [rowsA, columnsA] = layout.transA ? [K, M] : [M, K];
  const wideA = columnsA + before;
  const within = Float64Array.from(
    { length: rowsA * columnsA },
    (_, i) => a.data[Math.floor(i / columnsA) * wideA + (i % columnsA) + before]!,
  );
  const rowsB = layout.transB ? [N, K] : [K, N];
  const weight = Float64Array.from(b).subarray(before * rowsB[1]!);
  const [sum] = matmulOp.reference!(
    [
      { shape: [rowsA, columnsA], data: within },
      { shape: rowsB, data: weight },
    ],
    layout,
    [{ shape: [M, N], dtype: 'f32' }],
  );
  const wanted = Float64Array.from(out.data);
  sum!.data.forEach((value, i) => {
    const at = Math.floor(i / N) * (N + before) + (i % N) + before;
    const first = accumulate ? wanted[at]! : onto ? begin.data[onto === 'row' ? i % N : i]! : 0;
    wanted[at] = first + value;
  });
  return wanted;
}

/** @returns the variants of `many`, each of which must take more workgroups than one dimension of a grid has */
async function check(
  form: Form,
  dtype: 'f32' | PackedDType,
  layout: Layout,
  sizes: Sizes,
  many?: RegExp,
): Promise<Set<string>> {
  const met = new Set<string>();
  const [M, N, K] = sizes;
  const { before } = form;
  const device = await testDevice();
  const a = floats(layout.transA ? [K, M + before] : [M, K + before], 1);
  const b = floats(layout.transB ? [N + before, K] : [K + before, N], 2);
  const out = floats([M, N + before], 3);
  const packed = dtype === 'f32' ? b.data : pack(dtype, b.data as Float32Array);
  const numbers = dtype === 'f32' ? b.data : unpack(dtype, packed as Int32Array, b.data.length);
  const begin = floats(form.onto === 'row' ? [N] : [M, N], 4);
  const wanted = expected(form, layout, sizes, [a, numbers, out, begin]);
  for (const limits of [{ ...device.limits, subgroupSize: undefined }, device.limits] satisfies Device['limits'][]) {
    const graph = new Graph();
    const weight = graph.parameter('b', b.shape, { dtype });
    const output = graph.state('out', out.shape);
    const inputs = [
      graph.input('a', a.shape),
      weight,
      output,
      ...(form.onto ? [graph.input('begin', begin.shape)] : []),
    ];
    graph.output('y', graph.apply(product(form, layout, sizes), inputs)[0]!);
    const { dispatch } = plan(graph, limits).dispatches[0]!;
    const names = dispatch.choice!.variants().map(({ name }) => name);
    expect(names.length, 'variants to compare').toBeGreaterThan(1);
    // of a large product those that it is large for, and the safe one
    const variants = many ? names.filter((name, i) => i === 0 || many.test(name)) : names;
    const tensors = new Map([
      ['b', device.tensor(weight.type, packed)],
      ['out', device.tensor(output.type)],
    ]);
    const arena = new Arena(device);
    let first: Float32Array | undefined;
    for (const variant of variants) {
      device.write(tensors.get('out')!, out.data);
      const tuning = new Map([[dispatch.choice!.key, variant]]);
      const planned = plan(graph, { ...limits, tuning });
      const { workgroups } = planned.dispatches[0]!.dispatch;
      if (many?.test(variant)) {
        expect(
          workgroups.reduce((a, b) => a * b),
          `workgroups of ${variant}`,
        ).toBeGreaterThan(65_535);
        met.add(variant);
      }
      const program = await Program.create(device, planned, tensors, arena);
      const got = (await program.run({ a: a.data, ...(form.onto && { begin: begin.data }) })).get('y') as Float32Array;
      program.free();
      expectClose(got, wanted, 2e-6, variant);
      first ??= got;
      expect(Buffer.compare(bytesOf(got), bytesOf(first)), `${variant}: bits`).toBe(0);
    }
    arena.free();
    for (const tensor of tensors.values()) device.freeTensor(tensor);
  }
  return met;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

const SIZES: readonly Sizes[] = [
  [64, 64, 64],
  [36, 100, 96],
  [70, 44, 20],
  [33, 17, 9],
];
/** Wide enough for a workgroup of 64 tiles beside each other. */
const WIDE: readonly Sizes[] = [
  [24, 132, 70],
  [13, 130, 66],
];
/** Few outputs and long sums: a last chunk that is short, one with steps that four does not divide, tiles at an edge. */
const LONG: readonly Sizes[] = [
  [8, 36, 516],
  [33, 18, 515],
  [5, 6, 640],
];
const FORMS: readonly (readonly [Form, readonly Sizes[]])[] = [
  [PLAIN, [...SIZES, ...WIDE, ...LONG]],
  [
    ADDED,
    [
      [70, 44, 20],
      [13, 130, 66],
    ],
  ],
  [
    ONTO,
    [
      [70, 44, 20],
      [33, 17, 9],
      [33, 18, 515],
      [13, 130, 66],
    ],
  ],
  [
    ONTO_ROW,
    [
      [70, 44, 20],
      [33, 17, 9],
      [33, 18, 515],
      [13, 130, 66],
    ],
  ],
  [
    WITHIN,
    [
      [36, 100, 96],
      [33, 17, 9],
      [24, 132, 70],
    ],
  ],
];
const named = ({ transA, transB }: Layout): string => `${transA ? 'T' : 'N'}${transB ? 'T' : 'N'}`;

// K products of numbers below 1, rounded to 2^-24 each, after one number below 1
describe('the variants of a matmul', () => {
  const namesOf = (limits: MatmulWindow['limits'], dtype: 'f32' | 'f16', [M, N, K]: Sizes): string[] => {
    const operand = (shape: readonly number[], of: 'f32' | 'f16' = 'f32') => ({
      type: { shape, dtype: of },
      shape,
      size: shape[0]! * shape[1]!,
    });
    const window = {
      a: operand([M, K]),
      b: operand([N, K], dtype),
      out: operand([M, N]),
      M,
      N,
      K,
      transB: true,
      limits,
    };
    return variantsOf(window).map(({ name }) => name);
  };
  const gpu = { maxComputeWorkgroupStorageSize: 16384 };

  it('read halves as halves where the device can, and only what is held so', () => {
    const sizes: Sizes = [64, 128, 64];
    expect(namesOf({ ...gpu, shaderF16: true }, 'f16', sizes)).toEqual(
      expect.arrayContaining(['tile 4x4 f16', 'shared 64x64 by 8x8 f16']),
    );
    const without = [
      namesOf({ ...gpu, shaderF16: false }, 'f16', sizes),
      namesOf({ ...gpu, shaderF16: true }, 'f32', sizes),
    ];
    expect(without.flat().filter((name) => name.endsWith('f16'))).toEqual([]);
  });

  it('cut long sums for a GPU only, and never offer a cut sum beside one that is not', () => {
    const cut = (sizes: Sizes, limits: MatmulWindow['limits'] = gpu): number => {
      const names = namesOf(limits, 'f32', sizes);
      const count = names.filter((name) => name.startsWith('split')).length;
      expect([0, names.length]).toContain(count);
      return count;
    };
    expect(cut([8, 576, 512])).toBe(4);
    expect(cut([8, 576, 511])).toBe(0);
    expect(cut([512, 576, 1536])).toBe(0);
    expect(cut([8, 576, 512], { ...gpu, subgroupSize: 4 })).toBe(0);
    const refused = new Set(namesOf(gpu, 'f32', [8, 576, 512]));
    expect(cut([8, 576, 512], { ...gpu, refused })).toBe(0);
  });
});

describe('every variant of a matmul gives float64’s numbers, and the same bits as each other', () => {
  for (const [form, all] of FORMS)
    for (const layout of layouts)
      for (const sizes of all) {
        const [M, N, K] = sizes;
        it(`${form.name} ${named(layout)} ${M}x${K}x${N}`, { timeout: 300_000 }, () =>
          check(form, 'f32', layout, sizes),
        );
      }
  // blocks of a packed weight lie along its rows; training reads it NT forward and NN backward
  for (const dtype of Object.keys(BLOCKS) as PackedDType[])
    for (const [i, form] of [PLAIN, ADDED, ONTO].entries())
      it(`${form.name} ${named(layouts[i % 2]!)} 36x64x128 ${dtype}`, { timeout: 300_000 }, () =>
        check(form, dtype, layouts[i % 2]!, [36, 128, 64]),
      );
  // a longer sum, of each kind in one of its blocks
  for (const dtype of [...new Set(Object.values(BLOCKS).map(({ kind }) => kind))])
    for (const [i, form] of [PLAIN, ONTO].entries())
      it(`${form.name} ${named(layouts[i]!)} 20x576x64 ${dtype}`, { timeout: 300_000 }, () =>
        check(form, dtype, layouts[i]!, [20, 64, 576]),
      );
  // rows fold into two dimensions of the grid; 64 threads below each other are the most rows of a workgroup. The other tiles and
  // panels need products of a gigabyte for that: docs/kernels.md
  for (const layout of layouts)
    for (const [sizes, many, found] of [
      [[64 * 65_536 + 5, 4, 1], /^lanes/, 2],
      [[2 * 64 * 65_536 + 5, 2, 1], /^tile 2x2/, 1],
      // rows of A lie along K or along M; B's layout is nothing to the grid
      ...(layout.transA === layout.transB ? [] : ([[[32 * 65_535 + 4, 16, 16], /^shared 32x32/, 1]] as const)),
      ...(layout.transA || layout.transB ? [] : ([[[4 * 65_535 + 9, 128, 1], /^broadcast 4x4/, 1]] as const)),
    ] as const)
      it(
        `= ${named(layout)} ${sizes[0]}x${sizes[2]}x${sizes[1]}, more than 65,535 workgroups`,
        { timeout: 600_000 },
        async () => {
          const met = await check(PLAIN, 'f32', layout, sizes, many);
          expect(met.size, [...met].join()).toBeGreaterThanOrEqual(found);
        },
      );
});
