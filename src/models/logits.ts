/**
 * Whole logits of short sequences: what an exported file is compared with, and nothing that trains (there
 * `[tokens × vocabulary]` never exists).
 */
import { Graph } from '../engine/graph/graph.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { decoder, logitsOf, type DecoderAdapter, type DecoderOptions } from './decoder.ts';
import { runPadded, shapeOf } from './padded-sequences.ts';
import { tablesFor } from './rotary.ts';

export interface SequenceLogits {
  readonly input_ids: readonly number[];
  /** f32 [tokens, vocab] */
  readonly logits: Float32Array<ArrayBuffer>;
}

/**
 * All in one pass, shorter ones padded at their end, where causal attention keeps padding from mattering.
 * @param tensors the model's parameters (and the adapter's) on the device
 */
export async function sequenceLogits(
  device: Device,
  options: DecoderOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  sequences: readonly (readonly number[])[],
  adapter?: DecoderAdapter,
): Promise<SequenceLogits[]> {
  const { rotary } = options;
  if (rotary && new Set(sequences.map(({ length }) => tablesFor(rotary, length))).size > 1) {
    // a batch is turned by its longest: each sequence as it is by itself
    const apart: SequenceLogits[] = [];
    for (const sequence of sequences) {
      apart.push(...(await sequenceLogits(device, options, tensors, [sequence], adapter)));
    }
    return apart;
  }
  const [rows, length] = shapeOf(sequences);
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [rows, length], 'i32');
  const segments = ids('segments');
  const inputs = {
    input_ids: ids('input_ids'),
    position_ids: ids('position_ids'),
    query_segments: segments,
    key_segments: segments,
  };
  const { hidden, head } = decoder(graph, options, inputs, { adapter });
  graph.output('logits', logitsOf(options, hidden, head));
  const outputs = await runPadded(device, graph, tensors, sequences, { position_ids: (at) => at });
  const logits = outputs.get('logits') as Float32Array<ArrayBuffer>;
  const width = length * options.vocab_size;
  return sequences.map((input_ids, row) => ({
    input_ids,
    logits: logits.slice(row * width, row * width + input_ids.length * options.vocab_size),
  }));
}
