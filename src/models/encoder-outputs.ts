/** Hidden states and logits of short sequences by an encoder: what an exported file is compared with. */
import { Graph } from '../engine/graph/graph.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import type { DecoderAdapter } from './decoder.ts';
import { encoder, maskedLmLogits, type EncoderOptions } from './encoder.ts';
import { runPadded, shapeOf } from './padded-sequences.ts';

export interface EncodedSequence {
  readonly input_ids: readonly number[];
  /** f32 [tokens, hidden] */
  readonly last_hidden_state: Float32Array<ArrayBuffer>;
  /** f32 [tokens, vocab]; empty without a head. */
  readonly logits: Float32Array<ArrayBuffer>;
}

/**
 * All in one pass, shorter ones padded at their end, every token of type 0.
 * @param tensors the model's parameters (and the adapter's) on the device
 */
export async function encodedSequences(
  device: Device,
  options: EncoderOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  sequences: readonly (readonly number[])[],
  adapter?: DecoderAdapter,
): Promise<EncodedSequence[]> {
  const [rows, length] = shapeOf(sequences);
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [rows, length], 'i32');
  const inputs = { input_ids: ids('input_ids'), segments: ids('segments'), token_type_ids: ids('token_type_ids') };
  const { hidden, head } = encoder(graph, options, inputs, { adapter });
  graph.output('last_hidden_state', hidden);
  if (head) graph.output('logits', maskedLmLogits(head));
  const outputs = await runPadded(device, graph, tensors, sequences, { token_type_ids: () => 0 });
  return sequences.map((input_ids, row) => {
    const part = (name: string, width: number): Float32Array<ArrayBuffer> => {
      const whole = outputs.get(name) as Float32Array<ArrayBuffer> | undefined;
      return whole?.slice(row * length * width, (row * length + input_ids.length) * width) ?? new Float32Array(0);
    };
    return {
      input_ids,
      last_hidden_state: part('last_hidden_state', options.hidden_size),
      logits: part('logits', options.vocab_size),
    };
  });
}
