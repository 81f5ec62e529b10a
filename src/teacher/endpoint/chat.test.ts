/** What is taken from a server's message: OpenAI's, vLLM's, DeepSeek's and llama.cpp's ways of saying what was thought. */
import { afterEach, expect, it } from 'vitest';
import { writeAnswer } from './chat.ts';
import { EndpointServer } from './server.ts';
import { testServer, type Json, type Mind, type TestServer } from './server.testing.ts';

let server: TestServer;
afterEach(() => server.close());

const settings = { temperature: 0.5, top_p: 0.9, max_new_tokens: 64, stop: ['\n\n'] };

async function written(message: Json, finish_reason = 'stop') {
  server = await testServer('Ollama', { model: 'm', chat: () => ({ message, finish_reason }) } as unknown as Mind);
  const at = new EndpointServer(server.url, { headers: {}, through: (url) => url });
  return writeAnswer(at, 'm', [{ role: 'user', content: '1 + 1 = ?' }], settings, 7);
}

it.each([
  ['says only its answer', { content: ' 2 ' }, { content: '2', whole: true }],
  [
    'thinks in reasoning_content',
    { content: '2', reasoning_content: '1 + 1\n' },
    { content: '2', reasoning: '1 + 1', whole: true },
  ],
  ['thinks in reasoning', { content: '2', reasoning: '1 + 1' }, { content: '2', reasoning: '1 + 1', whole: true }],
  [
    'thinks in its text',
    { content: '<think>\n1 + 1\n</think>\n\n2' },
    { content: '2', reasoning: '1 + 1', whole: true },
  ],
  ['begins inside its thought', { content: '1 + 1\n</think>\n\n2' }, { content: '2', reasoning: '1 + 1', whole: true }],
  ['thinks of nothing', { content: '<think>\n\n</think>\n\n2' }, { content: '2', whole: true }],
  ['says nothing', { content: null }, { content: '', whole: true }],
])('%s', async (_, message, expected) => {
  expect(await written(message)).toEqual(expected);
});

it('knows a thought that was cut off from an answer', async () => {
  expect(await written({ content: '<think>\n1 +' }, 'length')).toEqual({ content: '', whole: false });
});

it('asks as it is told to', async () => {
  await written({ content: '2' });
  expect(server.heard.at(-1)!.body).toEqual({
    model: 'm',
    messages: [{ role: 'user', content: '1 + 1 = ?' }],
    temperature: 0.5,
    top_p: 0.9,
    max_tokens: 64,
    seed: 7,
    stop: ['\n\n'],
  });
});
