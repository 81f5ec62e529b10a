/** The page and a teacher's server on another origin: reached where it allows the page, told apart from other faults where not. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { nodeFolder } from '../src/cli/node-files.ts';
import { loadTokenizer } from '../src/models/tokenizer.ts';
import { send, testServer, type TestServer } from '../src/teacher/endpoint/server.testing.ts';
import { openStudio, type Studio } from './harness.ts';

let studio: Studio;
let server: TestServer;
let allows: boolean;

beforeAll(async () => {
  const tokenizer = await loadTokenizer(nodeFolder('public/bundled/arithmetic'));
  const { vocab_size } = tokenizer;
  server = await testServer('vLLM', {
    model: 'teacher',
    tokenizer,
    vocab_size,
    logits: async (ids) => new Float32Array(ids.length * vocab_size),
  });
  server.instead = (_path, response) => {
    const { headers } = server.heard.at(-1)!;
    if (allows) {
      // As FastAPI's middleware answers a page's question.
      response.setHeader('Access-Control-Allow-Origin', '*');
      response.setHeader('Access-Control-Allow-Headers', headers['access-control-request-headers'] ?? '');
    }
    if (headers['access-control-request-method']) {
      response.writeHead(200).end();
      return true;
    }
    if (headers.authorization === 'Bearer right') return false;
    send(response, 401, { error: 'Unauthorized' });
    return true;
  };
  studio = await openStudio({ address: '#/teacher' });
  await studio.page.getByText('A server', { exact: true }).click();
  await studio.page.getByLabel(/^Address/).fill(server.url);
});
afterAll(async () => {
  await studio?.close();
  await server?.close();
});

async function tried(): Promise<string> {
  await studio.page.getByRole('button', { name: 'Try the connection' }).click();
  await studio.page.getByText('Asking…').waitFor({ state: 'detached' });
  const notice = studio.page.locator('.notice p').last();
  await notice.waitFor();
  return notice.innerText();
}

it('says in words why a server does not teach, and that it does', async () => {
  const { page } = studio;
  await page.getByLabel(/^Model/).fill('pupil');
  allows = false;
  expect(await tried()).toContain('it must allow this page (CORS)');
  allows = true;
  await page.getByLabel('Key of the server').fill('wrong');
  await page.getByLabel(/^Model/).fill('pupils');
  expect(await tried()).toBe('The server wants a key, or does not accept this one.');
  await page.getByLabel('Key of the server').fill('right');
  await page.getByLabel(/^Model/).fill('pupil');
  expect(await tried()).toBe('The server answers, but does not know this model. Below it says which it has.');
  await page.getByLabel(/^Model/).fill('teacher');
  expect(await tried()).toBe(
    'It answers, in the way of vLLM, and says how probable each word is: the student can learn from it.',
  );
});

it('forgets the key where the address names another server, and keeps it in no storage', async () => {
  const { page } = studio;
  const address = page.getByLabel(/^Address/);
  await address.fill(server.url.replace('127.0.0.1', 'localhost'));
  await address.blur();
  expect(await page.getByLabel('Key of the server').inputValue()).toBe('');
  const asked = server.heard.length;
  await tried();
  expect(server.heard.slice(asked).every(({ headers }) => headers.authorization === undefined)).toBe(true);
  await page.reload();
  await page.getByRole('heading', { level: 1 }).waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href]));
  expect(kept).not.toContain('right');
});

it('learns how probable it finds words, or the answers that it writes', async () => {
  const { page } = studio;
  await page.getByText('The answers that it writes', { exact: true }).click();
  await page.getByLabel(/^Longest answer/).waitFor();
  expect(await page.getByText('The 32 most likely words of every position').count()).toBe(0);
  await page.getByText('Both', { exact: true }).click();
  await page.getByText('The 32 most likely words of every position').waitFor();
});
