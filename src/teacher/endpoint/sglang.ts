/**
 * SGLang (python/sglang/srt): its own `/generate` with `input_ids` and `return_logprob`. `meta_info.input_top_logprobs` has
 * an entry for each token from `logprob_start_len` on (null for the first of all), a list of [logprob, id, text].
 */
import { isJsonObject } from '../../formats/strict-json.ts';
import { entriesOf, FEW_TOKENS, topOf, type Dialect } from './dialect.ts';

export const sglang: Dialect = (server) => {
  const ask = async (input_ids: readonly number[], k: number): Promise<unknown> => {
    const answer = await server.own('/generate', {
      input_ids,
      sampling_params: { max_new_tokens: 1, temperature: 1 },
      return_logprob: true,
      logprob_start_len: 0,
      top_logprobs_num: k,
      return_text_in_logprobs: true,
    });
    const meta_info = answer?.['meta_info'];
    return isJsonObject(meta_info) ? meta_info['input_top_logprobs'] : undefined;
  };
  return {
    server: 'SGLang',
    isSpoken: async () => Array.isArray(await ask(FEW_TOKENS, 1)),
    async after(input_ids, positions, k) {
      // Up to the last token that is thought of.
      const prompt = input_ids.slice(0, positions.at(-1)! + 2);
      const entries = entriesOf(await ask(prompt, k), prompt.length, server, 'an SGLang that gives all of them');
      return positions.map((position) => {
        const top = (entries[position + 1] as [unknown, unknown, unknown][] | null) ?? [];
        return topOf(
          top.map(([logprob, id, token]) => ({ id, logprob, token })),
          k,
        );
      });
    },
  };
};
