/**
 * A written GGUF against the weights that it was made from, through Stillroom's own reader: the model that it says it is,
 * and every tensor within what its type can hold. Bounds per value, with m the largest of its block of 32:
 *
 *   F32    equal, but for the bits that Gemma's w + 1 loses            F16    equal to the nearest f16
 *   Q8_0   m/127 · (1/2 + 127 · 2^-11)     half a step, and the scale itself an f16
 *   Q4_0   m/8 · (1 + 8 · 2^-11)           a whole step: what lies opposite the farthest value is cut at 7 of 8
 */
import type { ByteSource } from '../../formats/byte-source.ts';
import type { Change } from '../../formats/gguf-architectures.ts';
import { QUANTISED_BLOCK } from '../../formats/ggml-quantise.ts';
import { modelFromGguf } from '../../formats/gguf-model.ts';
import { openGguf, type GgufTensorInfo } from '../../formats/gguf.ts';
import { f16ToF32, f32ToF16 } from '../../formats/half.ts';
import { readArchitecture } from '../../models/architectures/index.ts';
import type { DecoderOptions } from '../../models/decoder.ts';
import type { WeightSource } from '../merge.ts';

/**
 * @returns the largest difference of a weight over the largest of its tensor, and the file's weights by hub name
 * @throws where the file is another model
 */
export async function verifyGguf(
  source: ByteSource,
  options: DecoderOptions,
  weights: WeightSource,
  names: Iterable<string>,
): Promise<{ max_weight_difference: number; readF32: (name: string) => Promise<Float32Array<ArrayBuffer>> }> {
  const model = await modelFromGguf(await openGguf(source));
  sameModel(readArchitecture(model.config, source.name), options);
  let worst = 0;
  for (const name of names) {
    const info = model.tensors.get(name);
    if (!info) throw new Error(`${name} is not in it`);
    const wanted = await weights.readF32(name);
    worst = Math.max(worst, difference(name, info, await model.readF32(name), wanted));
  }
  return { max_weight_difference: worst, readF32: (name) => model.readF32(name) };
}

function sameModel(got: DecoderOptions, wanted: DecoderOptions): void {
  // the GGUF keeps f32: 1e-5 comes back as the shortest decimal of it
  const plain = (options: DecoderOptions): Record<string, string> =>
    Object.fromEntries(
      Object.entries(options).flatMap(([key, value]) =>
        value === undefined
          ? []
          : [[key, JSON.stringify(value, (_, one: unknown) => (typeof one === 'number' ? Math.fround(one) : one))]],
      ),
    );
  const [is, should] = [plain(got), plain(wanted)];
  for (const key of new Set([...Object.keys(is), ...Object.keys(should)])) {
    if (is[key] !== should[key]) throw new Error(`it says ${key} ${is[key]}, and the model has ${should[key]}`);
  }
}

function difference(
  name: string,
  { dtype, change }: Pick<GgufTensorInfo, 'dtype'> & { readonly change: Change },
  got: Float32Array,
  wanted: Float32Array<ArrayBuffer>,
): number {
  if (got.length !== wanted.length)
    throw new Error(`${name} has ${got.length} values, and ${wanted.length} were written`);
  // an f32 of w + 1 keeps fewer of w's bits
  const kept = change?.kind === 'plus one' ? wanted.map((weight) => weight + 1).map((weight) => weight - 1) : wanted;
  const near = dtype === 'F16' ? f16ToF32(f32ToF16(kept)) : kept;
  let worst = 0;
  let largest = 0;
  for (let from = 0; from < wanted.length; from += QUANTISED_BLOCK) {
    const to = Math.min(from + QUANTISED_BLOCK, wanted.length);
    let most = 0;
    for (let i = from; i < to; i++) most = Math.max(most, Math.abs(wanted[i]!));
    const bound = boundOf(dtype, most);
    for (let i = from; i < to; i++) {
      const off = Math.abs(got[i]! - near[i]!);
      if (!(off <= bound)) {
        throw new Error(
          `${name} (${dtype}) holds ${got[i]} at ${i}, and ${wanted[i]} was written: at most ${bound} off`,
        );
      }
      worst = Math.max(worst, Math.abs(got[i]! - wanted[i]!));
    }
    largest = Math.max(largest, most);
  }
  return largest === 0 ? 0 : worst / largest;
}

/** 2^-25: half the distance of the smallest f16, where the scale is one of those. */
function boundOf(dtype: string, most: number): number {
  if (dtype === 'Q8_0') return (most / 127) * (0.5 + 127 * 2 ** -11 + 1e-4) + 127 * 2 ** -25;
  if (dtype === 'Q4_0') return (most / 8) * (1 + 8 * 2 ** -11 + 1e-4) + 8 * 2 ** -25;
  return 0;
}
