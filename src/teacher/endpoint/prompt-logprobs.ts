/**
 * Log probabilities of a given text. OpenAI's API has no such thing, so each server has its own way; which one answers is
 * found by asking, as versions and configurations differ.
 */
import type { Dialect, PromptLogprobs } from './dialect.ts';
import { llamaCpp } from './llama-cpp.ts';
import { ServerFault, type EndpointServer } from './server.ts';
import { sglang } from './sglang.ts';
import { vllm } from './vllm.ts';

const DIALECTS: readonly Dialect[] = [vllm, sglang, llamaCpp];

/** undefined where the server gives none. */
export async function promptLogprobs(server: EndpointServer, model: string): Promise<PromptLogprobs | undefined> {
  for (const dialect of DIALECTS) {
    const spoken = dialect(server, model);
    if (await spoken.isSpoken().catch(isRefusal)) return spoken;
  }
  return undefined;
}

/** It has no such door, or does not understand what is asked there; anything else is a fault of another kind. */
function isRefusal(error: unknown): false {
  if (error instanceof ServerFault && [400, 404, 405, 422, 501].includes(error.status ?? 0)) return false;
  throw error;
}
