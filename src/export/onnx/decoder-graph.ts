/**
 * The decoder as its callers will know it in an ONNX file: the builder that trains, with sizes as symbols, a key-value
 * cache a layer, and logits at every position.
 *
 * In the engine a cache is filled in place and as long as all tokens; at the border it is what came before
 * (`past_sequence_length`), and what comes out is one piece longer (`present.*`).
 */
import { Graph } from '../../engine/graph/graph.ts';
import { decoder, logitsOf, type DecoderOptions } from '../../models/decoder.ts';
import { BATCH, TOKENS, TOTAL } from './sizes.ts';

export function decoderGraph(options: DecoderOptions): Graph {
  const graph = new Graph();
  const width = options.num_key_value_heads * options.head_dim;
  const cache = (part: string) => (layer: number) =>
    graph.state(`past_key_values.${layer}.${part}`, [BATCH, TOTAL, width]);
  const input_ids = graph.input('input_ids', [BATCH, TOKENS], 'i32');
  const key_segments = graph.input('attention_mask', [BATCH, TOTAL], 'i32');
  const position_ids = graph.input('position_ids', [BATCH, TOKENS], 'i32');
  const { hidden, head, present } = decoder(
    graph,
    { ...options, held: undefined },
    {
      input_ids,
      position_ids,
      // the engine's own: a file knows its queries by the mask, and its past by the cache
      query_segments: graph.input('query_segments', [BATCH, TOKENS], 'i32'),
      key_segments,
      cache: { past_length: graph.input('past_length', [1], 'i32'), key: cache('key'), value: cache('value') },
    },
  );
  graph.output('logits', logitsOf(options, hidden, head));
  present.forEach(({ key, value }, layer) => {
    graph.output(`present.${layer}.key`, key);
    graph.output(`present.${layer}.value`, value);
  });
  return graph;
}
