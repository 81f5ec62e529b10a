/** `export`: what the files cost on a person's own rows, and that bad rows leave nothing. The files themselves: src/export. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import type { House } from './command.ts';
import { command } from './export.ts';

const MODEL = 'public/bundled/arithmetic';
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'stillroom-export-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** What it says line by line. */
async function exported(out: string, values: Record<string, string>): Promise<string[]> {
  const lines: string[] = [];
  const hear = (chunk: unknown): boolean => lines.push(String(chunk)) > 0;
  const spies = [process.stderr, process.stdout].map((stream) => vi.spyOn(stream, 'write').mockImplementation(hear));
  try {
    await command.run([MODEL], { out, ...values }, {} as House);
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  return lines.join('').split('\n');
}

it('tells the loss on rows before and after rounding', { timeout: 180_000 }, async () => {
  const out = path.join(folder, 'measured');
  const lines = await exported(out, { onnx: 'fp32', gguf: 'Q4_0', data: `${MODEL}/test.jsonl` });
  const lossesOf = (file: string): number[] => {
    const line = lines.find((one) => one.startsWith(file))!;
    const [, after, before] = /loss on your rows ([\d.]+), before rounding ([\d.]+)/.exec(line)!;
    return [Number(after), Number(before)];
  };
  const [exact, engine] = lossesOf('onnx/model.onnx');
  // four digits are told; ONNX Runtime and the engine differ in the sixth
  expect(Math.abs(exact! - engine!)).toBeLessThanOrEqual(1e-4);
  const [rounded, before] = lossesOf('model-Q4_0.gguf');
  expect(before).toBe(engine);
  expect(Math.abs(rounded! - before!)).toBeGreaterThan(1e-3);
  expect(Math.abs(rounded! - before!)).toBeLessThan(0.3);
});

it('refuses bad rows by file and line, and leaves nothing', async () => {
  const rows = path.join(folder, 'rows.jsonl');
  await writeFile(rows, '{"question":"1+1","answer":"2"}\n{"question":\n');
  const out = path.join(folder, 'refused');
  await expect(exported(out, { onnx: 'fp32', data: rows })).rejects.toThrow(/rows\.jsonl.*2/);
  await expect(exported(out, { onnx: 'fp32', data: `${rows}.not` })).rejects.toThrow('there is no such file');
  expect(existsSync(out)).toBe(false);
});
