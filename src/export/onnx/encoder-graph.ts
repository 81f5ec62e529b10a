/**
 * The encoder as its callers will know it in an ONNX file: the builder that `forward` runs, with sizes as symbols. Inputs
 * are input_ids, attention_mask and, where the model tells types apart, token_type_ids; a mask of 0 is padding, anywhere.
 */
import { Graph } from '../../engine/graph/graph.ts';
import { encoder, maskedLmLogits, type EncoderOptions } from '../../models/encoder.ts';
import { BATCH, TOKENS } from './sizes.ts';

export function encoderGraph(options: EncoderOptions): Graph {
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [BATCH, TOKENS], 'i32');
  const { hidden, head } = encoder(
    graph,
    { ...options, held: undefined },
    {
      input_ids: ids('input_ids'),
      segments: ids('attention_mask'),
      token_type_ids: options.type_vocab_size === undefined ? undefined : ids('token_type_ids'),
    },
  );
  graph.output('last_hidden_state', hidden);
  if (head) graph.output('logits', maskedLmLogits(head));
  return graph;
}
