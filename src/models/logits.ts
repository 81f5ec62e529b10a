/**
 * Whole logits of short sequences: what an exported file is compared with, and nothing that trains (there
 * `[tokens × vocabulary]` never exists).
 */
import { Graph } from '../engine/graph/graph.ts';
import { matmul } from '../engine/ops/index.ts';
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program } from '../engine/run/program.ts';
import { decoder, type DecoderAdapter, type DecoderOptions } from './decoder.ts';

export interface SequenceLogits {
  readonly input_ids: readonly number[];
  /** f32 [tokens, vocab] */
  readonly logits: Float32Array<ArrayBuffer>;
}

/** @param tensors the model's parameters (and the adapter's) on the device */
export async function sequenceLogits(
  device: Device,
  options: DecoderOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  sequences: readonly (readonly number[])[],
  adapter?: DecoderAdapter,
): Promise<SequenceLogits[]> {
  const results: SequenceLogits[] = [];
  for (const input_ids of sequences) {
    const graph = new Graph();
    const ids = (name: string) => graph.input(name, [1, input_ids.length], 'i32');
    const segments = ids('segments');
    const inputs = {
      input_ids: ids('input_ids'),
      position_ids: ids('position_ids'),
      query_segments: segments,
      key_segments: segments,
    };
    const { hidden, head } = decoder(graph, options, inputs, { adapter });
    graph.output('logits', matmul(hidden, head, { transB: true }));
    const arena = new Arena(device);
    const program = await Program.create(device, plan(graph, device.limits), tensors, arena);
    const outputs = await program.run({
      input_ids: Int32Array.from(input_ids),
      position_ids: Int32Array.from(input_ids.keys()),
      segments: new Int32Array(input_ids.length).fill(1),
    });
    program.free();
    arena.free();
    results.push({ input_ids, logits: outputs.get('logits') as Float32Array<ArrayBuffer> });
  }
  return results;
}
