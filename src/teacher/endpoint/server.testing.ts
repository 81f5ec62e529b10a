/**
 * Servers for tests, on this machine: they answer in the formats of vLLM (0.19), SGLang and llama.cpp's server, of whatever
 * logits they are given, and do wrong what a test asks them to.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Tokenizer } from '../../models/tokenizer.ts';

export interface Mind {
  readonly model: string;
  readonly tokenizer: Tokenizer;
  readonly vocab_size: number;
  /** f32 [tokens, vocab_size] */
  logits(input_ids: readonly number[]): Promise<Float32Array>;
  /** What it writes to a conversation: an answer as in `message`, and why it ended. */
  chat?(body: Json): { message: Json; finish_reason: string };
}

export type Json = Record<string, unknown>;

export interface TestServer {
  readonly url: string;
  /** Every request, in order: its path, body and headers. */
  readonly heard: { path: string; body: Json; headers: IncomingMessage['headers'] }[];
  /** Does a request itself and says so by true. */
  instead: (path: string, response: ServerResponse, body: Json) => boolean;
  close(): Promise<void>;
}

export type Speaks = 'vLLM' | 'SGLang' | 'llama.cpp' | 'Ollama';

/** vLLM's `--max-logprobs`. */
const MOST = 20;

export async function testServer(speaks: Speaks, mind: Mind): Promise<TestServer> {
  const heard: TestServer['heard'] = [];
  const result: TestServer = {
    url: '',
    heard,
    instead: () => false,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  const server = createServer((request, response) => {
    void (async () => {
      const path = request.url ?? '/';
      const parts: Uint8Array[] = [];
      for await (const part of request as AsyncIterable<Uint8Array>) parts.push(part);
      const text = Buffer.concat(parts).toString('utf8');
      const body = (text === '' ? {} : JSON.parse(text)) as Json;
      heard.push({ path, body, headers: request.headers });
      if (result.instead(path, response, body)) return;
      const answer = await answers(speaks, mind, path, body);
      if (answer) send(response, answer.status ?? 200, answer.body);
      else send(response, 404, { detail: 'Not Found' });
    })().catch((error: unknown) => send(response, 500, { error: { message: String(error) } }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(result, { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

export function send(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(body));
}

type Answer = { status?: number; body: unknown } | undefined;

async function answers(speaks: Speaks, mind: Mind, path: string, body: Json): Promise<Answer> {
  switch (path) {
    case '/v1/models':
      return { body: { object: 'list', data: [{ id: mind.model, object: 'model' }] } };
    case '/v1/chat/completions':
      return chat(mind, body);
    case '/v1/completions':
      return speaks === 'vLLM'
        ? vllm(mind, body)
        : { body: { choices: [{ index: 0, text: '', finish_reason: 'length' }] } };
    case '/tokenize':
      return speaks === 'Ollama' ? undefined : tokenize(speaks, mind, body);
    case '/generate':
      return speaks === 'SGLang' ? sglang(mind, body) : undefined;
    case '/completion':
      return speaks === 'llama.cpp' ? llamaCpp(mind, body) : undefined;
    default:
      return undefined;
  }
}

function tokenize(speaks: Speaks, { tokenizer }: Mind, body: Json): Answer {
  const text = body[speaks === 'llama.cpp' ? 'content' : 'prompt'] as string;
  const tokens = tokenizer.encode(text, { add_special_tokens: false });
  return { body: speaks === 'llama.cpp' ? { tokens } : { count: tokens.length, max_model_len: 4096, tokens } };
}

async function vllm(mind: Mind, body: Json): Promise<Answer> {
  const [prompt, k] = [body['prompt'] as number[], body['prompt_logprobs'] as number];
  if (body['model'] !== mind.model) {
    const message = `The model \`${String(body['model'])}\` does not exist.`;
    return { status: 404, body: { error: { message, type: 'NotFoundError', param: 'model', code: 404 } } };
  }
  if (k > MOST) {
    const message = `Requested prompt logprobs of ${k}, which is greater than max allowed: ${MOST}`;
    return { status: 400, body: { error: { message, type: 'BadRequestError', param: 'prompt_logprobs', code: 400 } } };
  }
  const rows = await thoughts(mind, prompt);
  const prompt_logprobs = prompt.map((id, i) => {
    if (i === 0) return null;
    const ranked = rows[i - 1]!;
    const shown = ranked.slice(0, k);
    const own = ranked.findIndex((one) => one.id === id);
    // The token that stands there comes first, whatever its rank.
    const all = own < k ? shown : [ranked[own]!, ...shown];
    return Object.fromEntries(
      all.map(({ id, logprob }) => [
        String(id),
        { logprob, rank: ranked.findIndex((one) => one.id === id) + 1, decoded_token: mind.tokenizer.decode([id]) },
      ]),
    );
  });
  const choice = { index: 0, text: 'x', logprobs: null, finish_reason: 'length', stop_reason: null, prompt_logprobs };
  return { body: { id: 'cmpl-1', object: 'text_completion', created: 0, model: mind.model, choices: [choice] } };
}

async function sglang(mind: Mind, body: Json): Promise<Answer> {
  const [ids, k] = [body['input_ids'] as number[], body['top_logprobs_num'] as number];
  const rows = await thoughts(mind, ids);
  const text = (id: number): string | null =>
    body['return_text_in_logprobs'] === true ? mind.tokenizer.decode([id]) : null;
  const input_top_logprobs = ids.map((_, i) =>
    i === 0 ? null : rows[i - 1]!.slice(0, k).map(({ id, logprob }) => [logprob, id, text(id)]),
  );
  const meta_info = { id: '1', prompt_tokens: ids.length, completion_tokens: 1, input_top_logprobs };
  return { body: { text: 'x', output_ids: [0], meta_info } };
}

async function llamaCpp(mind: Mind, body: Json): Promise<Answer> {
  const [prompt, k] = [body['prompt'] as number[], body['n_probs'] as number];
  if (body['post_sampling_probs'] !== false) throw new Error('asked for probabilities after sampling');
  const top = (await thoughts(mind, prompt)).at(-1)!.slice(0, k);
  const entry = ({ id, logprob }: Thought): Json => {
    const token = mind.tokenizer.decode([id]);
    return { id, token, bytes: [...new TextEncoder().encode(token)], logprob };
  };
  const completion_probabilities = [{ ...entry(top[0]!), top_logprobs: top.map(entry) }];
  return { body: { index: 0, content: 'x', tokens: [top[0]!.id], stop: true, completion_probabilities } };
}

function chat({ model, chat }: Mind, body: Json): Answer {
  if (!chat) return undefined;
  if (body['model'] !== model) return { status: 404, body: { error: { message: 'no such model', code: 404 } } };
  const { message, finish_reason } = chat(body);
  return { body: { object: 'chat.completion', model, choices: [{ index: 0, message, finish_reason }] } };
}

interface Thought {
  readonly id: number;
  readonly logprob: number;
}

/** For each token the whole vocabulary, the most probable first, in float64. */
async function thoughts(mind: Mind, input_ids: readonly number[]): Promise<Thought[][]> {
  const { vocab_size } = mind;
  const logits = await mind.logits(input_ids);
  return input_ids.map((_, t) => {
    const row = logits.subarray(t * vocab_size, (t + 1) * vocab_size);
    const largest = row.reduce((a, b) => Math.max(a, b));
    const logZ = largest + Math.log(row.reduce((sum, z) => sum + Math.exp(z - largest), 0));
    const all = Array.from(row, (z, id) => ({ id, logprob: z - logZ }));
    return all.sort((a, b) => b.logprob - a.logprob || a.id - b.id);
  });
}
