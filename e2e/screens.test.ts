/**
 * Every screen of the page, on the real server under its policy, with a scripted job (scripted-job.ts): what it shows, what it
 * says when things go wrong, what axe finds, whether it fits. The real job has its own test.
 */
import { readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Page, Response } from 'playwright-core';
import { build } from 'vite';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it } from 'vitest';
import { recipeToFragment } from '../src/recipe/share.ts';
import { openStudio, temporaryFolder, type Studio } from './harness.ts';

const SCREENS = ['', 'data', 'teacher', 'student', 'train', 'evaluate', 'export', 'try', 'kept'] as const;
const require = createRequire(import.meta.url);

let folder: string;
/** One browser for all; a page of its own, with nothing kept, for each test. */
let studio: Studio;
let page: Page;
let complaints: string[];

beforeAll(async () => {
  folder = await temporaryFolder('scripted');
  const configFile = path.join(inject('root'), 'e2e/scripted.config.ts');
  await build({ root: inject('root'), configFile, logLevel: 'error', build: { outDir: folder } });
  studio = await openStudio({ folder, address: '__blank' });
});
afterAll(async () => {
  await studio?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});
afterEach(() => page?.close());

/** The scripted job needs no GPU, and these screens must not depend on what the machine has. */
function pretendAdapter(): void {
  const adapter = {
    info: { vendor: 'google', architecture: 'swiftshader', device: '', description: '', isFallbackAdapter: true },
    limits: { maxBufferSize: 1 << 30 },
    features: new Set<string>(),
  };
  Object.defineProperty(Navigator.prototype, 'gpu', {
    configurable: true,
    value: { requestAdapter: async () => adapter },
  });
}

/** @param prepare runs in every document before its own scripts */
async function open(address = '', prepare?: () => void): Promise<Page> {
  page = await studio.context.newPage();
  // A screen is right or wrong, not late: a busy machine is given time.
  page.setDefaultTimeout(120_000);
  complaints = [];
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.stack ?? error.message));
  await page.goto(`${studio.origin}/__blank`);
  await page.evaluate(async () => {
    localStorage.clear();
    for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister();
    for (const name of await caches.keys()) await caches.delete(name);
  });
  await page.addInitScript(pretendAdapter);
  if (prepare) await page.addInitScript(prepare);
  await page.goto(`${studio.origin}/${address}`);
  return page;
}

/** As a person does: one press, then wait for the end. */
async function distil(page: Page, speed = 300): Promise<void> {
  await page.evaluate((steps) => localStorage.setItem('scripted.speed', String(steps)), speed);
  await page.getByRole('button', { name: 'Watch a distillation' }).click();
  await page.getByRole('heading', { name: 'Distilled' }).waitFor();
}

async function show(page: Page, screen: string): Promise<void> {
  await page.evaluate((hash) => (location.hash = hash), `#/${screen}`);
  await page.locator('main h1').waitFor();
  await page.waitForTimeout(250);
}

describe('the first screen', () => {
  it('weighs at most 250 KB gzipped before a press', async () => {
    const sizes = new Map<string, number>();
    await open('__blank');
    const arrived: Promise<void>[] = [];
    const count = (response: Response) => {
      const { pathname } = new URL(response.url());
      arrived.push(response.body().then((body) => void sizes.set(pathname, gzipSync(body).length)));
    };
    studio.context.on('response', count);
    await page.goto(`${studio.origin}/`);
    await page.evaluate(() => navigator.serviceWorker.ready);
    studio.context.off('response', count);
    await Promise.allSettled(arrived);
    const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
    expect(sizes.size).toBeGreaterThan(3);
    expect(total, JSON.stringify([...sizes])).toBeLessThan(250_000);
  });

  it('has one filled button, which starts, and one to bring your own', async () => {
    await open();
    expect(await page.locator('main button.go').allInnerTexts()).toEqual(['Watch a distillation']);
    await page.getByRole('button', { name: 'Bring your own model and data' }).click();
    await page.getByRole('heading', { name: 'What should they read?' }).waitFor();
  });

  it('says in one sentence that there is no WebGPU, and does not let a run start', async () => {
    await open('', () => Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined }));
    await page.getByText('This browser has no WebGPU.').waitFor();
    expect(await page.getByRole('button', { name: 'Watch a distillation' }).isDisabled()).toBe(true);
  });

  it('says that the adapter is software', async () => {
    await open();
    await page.getByText('This browser computes without a graphics card.').waitFor();
  });

  it('explains a term by keyboard, and lets go of it with Escape', async () => {
    await open();
    await page.getByRole('button', { name: 'how sure' }).focus();
    await page.keyboard.press('Enter');
    await page.getByText('The score a model gives every possible next word').waitFor();
    await page.keyboard.press('Escape');
    await page.getByText('The score a model gives every possible next word').waitFor({ state: 'detached' });
  });

  it('is reached by Tab in the order in which it is read', async () => {
    await open();
    const reached: string[] = [];
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press('Tab');
      reached.push(await page.evaluate(() => document.activeElement?.textContent?.trim().split('\n')[0] ?? ''));
    }
    const places = [
      'Skip to the work',
      'Stillroom',
      'Data',
      'Try',
      'Watch a distillation',
      'Bring your own model and data',
    ];
    const found = places.map((text) => reached.findIndex((word) => word.startsWith(text)));
    expect(found).not.toContain(-1);
    expect(found).toEqual([...found].sort((a, b) => a - b));
  });
});

describe('a run', () => {
  it('shows itself from the press to the end, and is there again after a reload', async () => {
    await open();
    await distil(page);
    expect(await page.getByRole('img', { name: /Distance to the teacher/ }).getAttribute('aria-label')).toMatch(
      /step 300/,
    );
    await page.getByText('47 + 38 = ?').waitFor();
    await page.reload();
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
    await page.getByText('69% right').waitFor();
    expect(complaints).toEqual([]);
  });

  it('draws a curve that grows on the canvas that it has, and folded ones on none', async () => {
    await open();
    await page.evaluate(() => localStorage.setItem('scripted.speed', '60'));
    await page.getByRole('button', { name: 'Watch a distillation' }).click();
    // the second line begins at step 50
    await page.getByText(/^step (5[1-9]|[6-9]\d) of 300/).waitFor();
    const canvas = page.getByRole('region', { name: 'Distance to the teacher' }).locator('canvas');
    const first = (await canvas.elementHandle())!;
    const drawn = () => first.evaluate((element) => (element as HTMLCanvasElement).toDataURL());
    const before = await drawn();
    await page.getByText(/^step 1[1-9]\d of 300/).waitFor();
    expect(await first.evaluate((element) => element.isConnected)).toBe(true);
    expect(await drawn()).not.toBe(before);
    const all = page.locator('canvas');
    expect(await all.count()).toBe(2);
    await page.getByText('More curves').click();
    await page.getByRole('region', { name: 'Learning rate' }).locator('canvas').waitFor();
    expect(await all.count()).toBeGreaterThan(2);
    await page.getByText('More curves').click();
    await expect.poll(() => all.count()).toBe(2);
  });

  it('pauses and goes on where it was', async () => {
    await open();
    await page.evaluate(() => localStorage.setItem('scripted.speed', '40'));
    await page.getByRole('button', { name: 'Watch a distillation' }).click();
    await page.getByText(/^step (2|3)\d of 300/).waitFor();
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByRole('heading', { name: 'Paused' }).waitFor();
    await page.evaluate(() => localStorage.setItem('scripted.speed', '400'));
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
  });

  it.each([
    ['device-lost', 'The graphics driver took the card away.'],
    ['disk-full', 'The browser has no room left for this page.'],
    ['busy-elsewhere', 'This run is open in another tab'],
  ])('says what to do when it stops for %s', async (why, words) => {
    await open();
    await page.evaluate((fault) => {
      localStorage.setItem('scripted.speed', '400');
      localStorage.setItem('scripted.fault', fault);
    }, why);
    await page.getByRole('button', { name: 'Watch a distillation' }).click();
    await page.getByText(words).waitFor();
    await page.evaluate(() => localStorage.removeItem('scripted.fault'));
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
    expect(await page.getByText(words).count()).toBe(0);
  });

  it('offers the counter-test as one press, and says what the teacher was worth', async () => {
    await open();
    await distil(page);
    await show(page, 'evaluate');
    await page.getByRole('button', { name: 'Train it from text alone' }).click();
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
    expect(await page.evaluate(() => (JSON.parse(localStorage['scripted.runs']) as unknown[]).length)).toBe(2);
    await show(page, 'kept');
    await page.getByRole('listitem').filter({ hasNotText: 'text-alone' }).getByRole('button', { name: 'Open' }).click();
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
    await show(page, 'evaluate');
    await page.getByText(/The intervals overlap|The teacher was worth/).waitFor();
  });

  it('lets both be talked to, and what they say is text and nothing else', async () => {
    await open();
    await distil(page);
    await show(page, 'try');
    await page.getByLabel('Your question').fill('47 + 38 = ? <img src=x onerror=alert(1)>');
    await page.getByRole('button', { name: 'Ask both' }).click();
    await page.getByRole('button', { name: 'Ask both' }).waitFor();
    await page.getByRole('region', { name: 'Student' }).getByText('</think>75').waitFor();
    expect(await page.locator('main img').count()).toBe(0);
  });
});

describe('while a run is on', () => {
  it('holds the screen awake, asks before it is closed, and tells its end to one who looks elsewhere', async () => {
    await studio.context.grantPermissions(['notifications', 'screen-wake-lock'], { origin: studio.origin });
    await open('', () => {
      const told: string[] = [];
      const { Notification } = window;
      window.Notification = class extends Notification {
        // headless Chromium says "denied" here whatever it was granted, and asks rightly
        static override get permission(): NotificationPermission {
          return 'default';
        }
        constructor(title: string, options?: NotificationOptions) {
          super(title, options);
          told.push(`${title}: ${options?.body}`);
        }
      };
      Object.assign(window, { told });
    });
    await page.evaluate(() => localStorage.setItem('scripted.speed', '60'));
    await page.getByRole('button', { name: 'Watch a distillation' }).click();
    await page.getByText('The screen stays awake').waitFor();
    await page.getByRole('button', { name: 'Tell me when it ends' }).click();
    await page.getByText('You will be told when it ends.').waitFor();
    const asks = () =>
      page.evaluate(() => {
        const leaving = new Event('beforeunload', { cancelable: true });
        window.dispatchEvent(leaving);
        return leaving.defaultPrevented;
      });
    expect(await asks()).toBe(true);
    // another window in front: a headless browser has none
    await page.evaluate(() => Object.defineProperty(document, 'visibilityState', { value: 'hidden' }));
    await page.getByRole('heading', { name: 'Distilled' }).waitFor();
    expect(await page.getByText('The screen stays awake').count()).toBe(0);
    expect(await asks()).toBe(false);
    const told = await page.evaluate(() => (window as unknown as { told: string[] }).told);
    expect(told).toEqual([expect.stringMatching(/^Stillroom: .* is distilled\.$/)]);
    expect(complaints).toEqual([]);
  });
});

it('writes what it made into a folder that the person picks', async () => {
  await open('', () => {
    // The picker itself is the browser's; the folder behind it is a real one.
    Object.assign(window, {
      showDirectoryPicker: async () =>
        (await navigator.storage.getDirectory()).getDirectoryHandle('picked', { create: true }),
    });
  });
  await distil(page);
  await show(page, 'export');
  await page.getByRole('button', { name: /folder/ }).click();
  await page.getByText(/files? written/).waitFor();
  const written = await page.evaluate(async () => {
    const found: Record<string, number> = {};
    type Entries = FileSystemDirectoryHandle &
      AsyncIterable<[string, FileSystemFileHandle | FileSystemDirectoryHandle]>;
    const walk = async (folder: Entries, at: string): Promise<void> => {
      for await (const [name, handle] of folder) {
        if (handle.kind === 'directory') await walk(handle as Entries, `${at}${name}/`);
        else found[at + name] = (await handle.getFile()).size;
      }
    };
    const root = await navigator.storage.getDirectory();
    await walk((await root.getDirectoryHandle('picked')) as Entries, '');
    return found;
  });
  expect(Object.keys(written)).toContain('model/onnx/model.onnx');
  await page.getByText(`${Object.keys(written).length} files written.`).waitFor();
  expect(Object.values(written).every((size) => size > 0)).toBe(true);
  expect(complaints).toEqual([]);
});

it('a shared recipe fills the forms and starts nothing', async () => {
  const fragment = await recipeToFragment({
    name: 'shared',
    student: { model: 'HuggingFaceTB/SmolLM2-135M-Instruct' },
    data: { source: 'https://example.org/rows.jsonl', max_length: 77 },
  });
  await open(`#${fragment}`);
  await page.getByText('This recipe came with a link.').waitFor();
  expect(await page.getByLabel(/Longest row/).inputValue()).toBe('77');
  expect(await page.evaluate(() => localStorage['scripted.runs'] as unknown)).toBeUndefined();
});

it('a damaged link says so', async () => {
  await open('#recipe=AAAA');
  await page.getByText('The recipe in this link can’t be used:').waitFor();
});

it('offers a teacher like BERT its ready students, and others none', async () => {
  await open('#/teacher');
  const offered = page.getByRole('radio', { name: 'TinyBERT-4' });
  const teach = async (model: string): Promise<void> => {
    await show(page, 'teacher');
    await page.getByLabel(/^Model/).fill(model);
    await page.getByLabel(/^Model/).blur();
    await show(page, 'student');
  };
  await teach('google-bert/bert-base-uncased');
  await offered.check();
  expect(await page.getByLabel(/^Model/).inputValue()).toBe('google-bert/bert-base-uncased');
  expect(await page.getByLabel(/^Layers/).inputValue()).toBe('4');
  expect(await page.getByLabel(/^Starts from/).inputValue()).toBe('importance');
  await page.getByText('Kept: 4 layers, hidden_size 312, intermediate_size 1200.').waitFor();
  expect(await page.getByRole('radio', { name: 'All weights' }).isChecked()).toBe(true);
  await page.getByRole('radio', { name: 'DistilBERT-6' }).check();
  await page.getByText('Kept: 6 layers.').waitFor();
  await teach('HuggingFaceTB/SmolLM2-135M-Instruct');
  await offered.waitFor({ state: 'detached' });
  expect(complaints).toEqual([]);
});

it('says how many tokens a trimmed student keeps, and what it then costs', async () => {
  const fragment = await recipeToFragment({
    student: { model: 'bundled:arithmetic', compress: { vocabulary: 'data' } },
    data: { source: 'bundled:arithmetic/rows.jsonl' },
  });
  await open(`#${fragment}`);
  await page.getByText('This recipe came with a link.').waitFor();
  await show(page, 'student');
  await page.getByText(/Kept: 1.234 of 49.152 tokens/).waitFor();
  const price = page.getByRole('region', { name: 'What it costs' });
  await price.getByText(/^1.234 of 49.152$/).waitFor();
  await page.getByLabel(/^Vocabulary/).selectOption('all');
  await page.getByText('The whole model is kept.').waitFor();
  await price.getByText(/^1.234 of 49.152$/).waitFor({ state: 'detached' });
  expect(complaints).toEqual([]);
});

it('offers to draw the teacher’s words, says what that means, and what cannot be learnt from them', async () => {
  const fragment = await recipeToFragment({
    student: { model: 'bundled:arithmetic' },
    teacher: { kind: 'engine', model: 'bundled:arithmetic' },
    data: { source: 'bundled:arithmetic/rows.jsonl' },
    distill: { objective: 'jsd' },
  });
  await open(`#${fragment}`);
  await page.getByText('This recipe came with a link.').waitFor();
  await show(page, 'teacher');
  await page.getByText('The 32 most likely words of every position are kept; all others count as one.').click();
  await page.getByLabel(/^All other words/).selectOption('sampling');
  await page.getByText('At every position 32 words are drawn, each as often as the teacher finds it likely').waitFor();
  await page
    .getByText(/is "sampling", from which jsd can’t be estimated/)
    .first()
    .waitFor();
  expect(complaints).toEqual([]);
});

it('shows what is wrong with a field beside the field', async () => {
  await open('#/data');
  await page.getByRole('button', { name: 'Use the bundled rows' }).click();
  await page.getByLabel(/Longest row/).fill('1');
  await page.getByLabel(/Longest row/).blur();
  await show(page, 'student');
  await page.getByLabel(/^Model/).fill('bundled:arithmetic');
  await page.getByLabel(/^Model/).blur();
  await show(page, 'data');
  await page.getByText(/is 1: a whole number of at least 2/).waitFor();
});

describe.each([
  ['en', 'light', 1440, 900],
  ['zh', 'dark', 1280, 720],
  ['en', 'dark', 390, 844],
  ['zh', 'light', 390, 844],
] as const)('all screens in %s, %s, at %d × %d', (language, theme, width, height) => {
  it('fit, complain of nothing, and axe finds nothing serious', async () => {
    await open();
    await page.setViewportSize({ width, height });
    await distil(page);
    await page.evaluate(
      ([language, theme]) => {
        localStorage.setItem('stillroom.language', language);
        localStorage.setItem('stillroom.theme', theme);
      },
      [language, theme] as const,
    );
    await page.reload();
    const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');
    await page.evaluate(axe);
    const found: string[] = [];
    for (const screen of SCREENS) {
      await show(page, screen);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) found.push(`${screen}: ${over} px too wide`);
      const violations = await page.evaluate(async () => {
        type Axe = { run(): Promise<{ violations: { id: string; impact: string; nodes: { target: string[] }[] }[] }> };
        return (await (window as unknown as { axe: Axe }).axe.run()).violations;
      });
      for (const { id, impact, nodes } of violations) {
        if (impact === 'serious' || impact === 'critical')
          found.push(`${screen}: ${id}: ${nodes[0]?.target.join(' ')}`);
      }
    }
    expect(found).toEqual([]);
    expect(complaints).toEqual([]);
    expect(studio.foreign).toEqual([]);
  });
});

it('draws no style or script that the policy refuses', async () => {
  await open('', () => {
    document.addEventListener('securitypolicyviolation', (event) =>
      console.error(`policy: ${event.violatedDirective}`),
    );
  });
  await distil(page);
  for (const screen of SCREENS) await show(page, screen);
  expect(complaints).toEqual([]);
});
