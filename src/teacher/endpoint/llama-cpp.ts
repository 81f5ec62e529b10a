/**
 * llama.cpp's server (tools/server/README.md) has no log probabilities of a prompt, but of what it writes: `/completion` is
 * asked for one token after each beginning of the text. Its cache keeps the beginning, so that each request costs one token.
 * `post_sampling_probs` stays false: then `top_logprobs` are of a plain softmax over all logits, whatever the settings.
 */
import { isJsonObject } from '../../formats/strict-json.ts';
import { FEW_TOKENS, topOf, type Dialect, type TopLogprobs } from './dialect.ts';

export const llamaCpp: Dialect = (server, model) => {
  const ask = async (prompt: readonly number[], k: number): Promise<TopLogprobs | undefined> => {
    const answer = await server.own('/completion', {
      model,
      prompt,
      n_predict: 1,
      n_probs: k,
      post_sampling_probs: false,
      cache_prompt: true,
    });
    const probabilities = answer?.['completion_probabilities'];
    const first: unknown = Array.isArray(probabilities) ? probabilities[0] : undefined;
    if (!isJsonObject(first) || !Array.isArray(first['top_logprobs'])) return undefined;
    return topOf(first['top_logprobs'] as Parameters<typeof topOf>[0], k);
  };
  return {
    server: 'llama.cpp',
    isSpoken: async () => (await ask(FEW_TOKENS, 1)) !== undefined,
    async after(input_ids, positions, k) {
      const said: TopLogprobs[] = [];
      for (const position of positions) {
        const top = await ask(input_ids.slice(0, position + 1), k);
        if (!top) throw server.fault('gives no log probabilities of a token', 'a server that gives them (n_probs)');
        said.push(top);
      }
      return said;
    },
  };
};
