/** What `inspect` sees: by kind, and what it says of the rest. References by transformers and peft where they are there. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { inspect } from './inspect.ts';

const reference = path.resolve('../shared/reference/llama');
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'stillroom-inspect-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function file(name: string, content: string): Promise<string> {
  await writeFile(path.join(folder, name), content);
  return path.join(folder, name);
}

describe('inspect', () => {
  it('tells rows by their shape, and what is wrong with which', async () => {
    const rows = await file('rows.jsonl', '{"question":"1+1","answer":"2"}\n{"question":"1+2"}\n{"question":\n');
    const seen = await inspect(rows);
    expect(seen).toMatchObject({ kind: 'dataset', format: 'question_answer', rows: 3 });
    expect(seen.columns).toEqual(['question', 'answer']);
    expect(seen.problems).toMatchObject([{ line: 2 }, { line: 3 }]);
    await expect(inspect(await file('empty.jsonl', ''))).rejects.toThrow('is empty');
  });

  it('tells a recipe from rows', async () => {
    expect(await inspect('public/bundled/recipe.json')).toMatchObject({ kind: 'recipe' });
    const bad = file('bad.json', '{"student":{"model":"./m"},"data":{"source":"./r","max_lenght":5}}');
    await expect(inspect(await bad)).rejects.toThrow(/data\.max_lenght.*max_length/);
    expect(await inspect(await file('rows.json', '[{"text":"a"},{"text":"b"}]'))).toMatchObject({
      kind: 'dataset',
      rows: 2,
    });
  });

  it('says what it does not know', async () => {
    await expect(inspect(path.join(folder, 'nothing'))).rejects.toThrow('there is no such file or folder');
    await expect(inspect(folder)).rejects.toThrow('holds neither a model nor an adapter');
    await expect(inspect(await file('cut.safetensors', 'abc'))).rejects.toThrow('cut.safetensors');
  });

  it.runIf(existsSync(reference))('reads a model, its weights alone, and an adapter', async () => {
    // 211 · 48 embedded (tied), 3 layers of 48 · (48 + 2 · 16 + 48 + 3 · 112) and two norms, one norm at the end.
    const weights = { model_type: 'llama', parameters: 77280, tensors: 29, dtypes: { F32: 29 } };
    expect(await inspect(reference)).toMatchObject({ kind: 'model', ...weights, tokenizer: undefined });
    expect(await inspect(path.resolve(reference, '../bert'))).toMatchObject({ kind: 'model', model_type: 'bert' });
    expect(await inspect(path.join(reference, 'model.safetensors'))).toMatchObject({ kind: 'weights', ...weights });
    expect(await inspect(path.join(reference, 'lora'))).toMatchObject({
      kind: 'adapter',
      r: 4,
      lora_alpha: 8,
      tensors: 42,
    });
  });
});
