/**
 * vLLM (vllm/entrypoints/openai): `/v1/completions` with `prompt_logprobs: k` and the prompt as token ids. Entry i of the
 * answer is a dictionary by id of what it thought where token i stands: the k most probable, and token i itself where it is
 * not among them (so k or k + 1), each with its logprob and its rank from 1. They are taken from the raw logits.
 */
import { isJsonObject } from '../../formats/strict-json.ts';
import { entriesOf, FEW_TOKENS, topOf, type Dialect } from './dialect.ts';
import { ServerFault, type EndpointServer } from './server.ts';

export const vllm: Dialect = (server, model) => {
  const ask = async (prompt: readonly number[], k: number): Promise<unknown> => {
    const body = { model, prompt, max_tokens: 1, temperature: 1, prompt_logprobs: k };
    const { choices } = await server.post('/completions', body);
    const first: unknown = Array.isArray(choices) ? choices[0] : undefined;
    return isJsonObject(first) ? first['prompt_logprobs'] : undefined;
  };
  return {
    server: 'vLLM',
    // A server that does not know the field passes over it.
    isSpoken: async () => Array.isArray(await ask(FEW_TOKENS, 1)),
    async after(input_ids, positions, k) {
      // Up to the last token that is thought of.
      const prompt = input_ids.slice(0, positions.at(-1)! + 2);
      const allowed = 'a vLLM that gives all of them (the first of version 1 need --no-enable-prefix-caching for it)';
      const said = await ask(prompt, k).catch((error: unknown) => refuseMost(error, k, server));
      const entries = entriesOf(said, prompt.length, server, allowed);
      return positions.map((position) => topOf(ranked(entries[position + 1]), k));
    },
  };
};

const ranked = (entry: unknown): { id: number; logprob: unknown; token: unknown }[] =>
  Object.entries(isJsonObject(entry) ? entry : {}).flatMap(([id, one]) =>
    isJsonObject(one) ? [{ id: Number(id), logprob: one['logprob'], token: one['decoded_token'] }] : [],
  );

/** "Requested prompt logprobs of 32, which is greater than max allowed: 20" */
function refuseMost(error: unknown, k: number, server: EndpointServer): never {
  const most = /greater than max allowed: (\d+)/.exec(error instanceof ServerFault ? error.what : '')?.[1];
  if (most === undefined) throw error;
  throw server.fault(
    `gives at most ${most} log probabilities of a token where distill.k asks for ${k}`,
    `distill.k ${most}, or vLLM started with --max-logprobs ${k}`,
  );
}
