/**
 * Every op, forward and backward, at the sizes of SmolLM2-135M and 512 tokens: how much of its floor each reaches. The floor is
 * the longer of its operations at the device's peak and its least traffic at the rate of a shader that only reads.
 */
import type { Bench } from '../suite.ts';
import { profileGraph } from '../measure.ts';
import { opCases, type OpSizes } from '../op-cases.ts';
import { SMOLLM2, SMOLLM2_SIXTH } from '../shapes.ts';

const TOKENS = 512;
const K = 32;

export function opsSuite(bench: Bench): Promise<void> {
  const options = bench.device.adapter.software ? SMOLLM2_SIXTH : SMOLLM2;
  const { hidden_size, intermediate_size, vocab_size, num_attention_heads, num_key_value_heads, head_dim } = options;
  return measureOps(bench, {
    tokens: TOKENS,
    hidden_size,
    intermediate_size,
    vocab_size,
    heads: num_attention_heads,
    kv_heads: num_key_value_heads,
    head_dim,
    k: K,
  });
}

/** A line for every op of every case: `case › op`, or the case alone where that is one op. */
export async function measureOps(
  {
    device,
    peak_gflops,
    stream_gbps,
    add,
    tell,
  }: Pick<Bench, 'device' | 'peak_gflops' | 'stream_gbps' | 'add' | 'tell'>,
  sizes: OpSizes,
): Promise<void> {
  for (const [name, build] of Object.entries(opCases(sizes))) {
    tell(`ops: ${name}`);
    const measured = await profileGraph(device, build);
    for (const { op, ms, flops, bytes } of measured) {
      const floor = Math.max(flops / peak_gflops, bytes / stream_gbps) / 1e6;
      add({
        suite: 'ops',
        name: measured.length === 1 ? name : `${name} › ${op}`,
        ms,
        gflops: flops / ms / 1e6,
        gbps: bytes / ms / 1e6,
        bytes,
        fraction_of_floor: floor / ms,
      });
    }
  }
}
