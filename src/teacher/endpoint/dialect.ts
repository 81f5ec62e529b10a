/** How a kind of server says what it thinks of a text that is given to it. */
import type { EndpointServer } from './server.ts';

export interface TopLogprobs {
  /** The most probable first. */
  readonly ids: readonly number[];
  /** log p at temperature 1 over the whole vocabulary, before any sampling setting has touched it. */
  readonly logprobs: readonly number[];
  /** The ids as texts, as the server writes them. */
  readonly tokens: readonly string[];
}

export interface PromptLogprobs {
  readonly server: 'vLLM' | 'SGLang' | 'llama.cpp';
  /** Whether the server answers in this way. */
  isSpoken(): Promise<boolean>;
  /**
   * What it thinks of the token after each of the positions.
   * @param positions rising, none the last of the text
   */
  after(input_ids: readonly number[], positions: readonly number[], k: number): Promise<TopLogprobs[]>;
}

export type Dialect = (server: EndpointServer, model: string) => PromptLogprobs;

/** What servers are tried with: every vocabulary has these two. */
export const FEW_TOKENS = [1, 2];

/** @param entries in any order */
export function topOf(entries: readonly { id: unknown; logprob: unknown; token: unknown }[], k: number): TopLogprobs {
  const whole = entries.filter(({ id, logprob }) => Number.isInteger(id) && Number.isFinite(logprob)) as {
    id: number;
    logprob: number;
    token: unknown;
  }[];
  const top = whole.sort((a, b) => b.logprob - a.logprob || a.id - b.id).slice(0, k);
  return {
    ids: top.map(({ id }) => id),
    logprobs: top.map(({ logprob }) => logprob),
    tokens: top.map(({ token }) => (typeof token === 'string' ? token : '')),
  };
}

/** An entry for each token of the prompt, the first of which nothing predicts. */
export function entriesOf(said: unknown, tokens: number, server: EndpointServer, allowed: string): readonly unknown[] {
  if (Array.isArray(said) && said.length === tokens) return said;
  const got = Array.isArray(said) ? said.length : 0;
  throw server.fault(`gives log probabilities of ${got} of ${tokens} tokens`, allowed);
}
