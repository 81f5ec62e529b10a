/** Whether a text is what the engine itself would have written greedily. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'vitest';
import { nodeFile } from '../src/cli/node-files.ts';
import { openSafetensors, writeSafetensors } from '../src/formats/safetensors.ts';
import { startCommand } from './harness.ts';

/** Every token from `prompt` on must have the largest of the engine's logits at its place (`npm start -- forward`). */
export async function expectGreedy(model: string, ids: readonly number[], prompt: number): Promise<void> {
  expect(ids.length).toBeGreaterThan(prompt);
  const folder = await mkdtemp(path.join(tmpdir(), 'stillroom-greedy-'));
  try {
    const inputs = path.join(folder, 'inputs.safetensors');
    const int64 = (name: string, values: readonly number[]) =>
      ({ name, dtype: 'I64', shape: [1, ids.length], data: BigInt64Array.from(values, BigInt) }) as const;
    const mask = ids.map(() => 1);
    await writeFile(inputs, writeSafetensors([int64('input_ids', ids), int64('attention_mask', mask)]));
    const out = path.join(folder, 'logits.safetensors');
    const { code, stderr } = await startCommand(['forward', model, '--inputs', inputs, '--out', out]).ended;
    expect(code, stderr).toBe(0);
    const logits = await (await openSafetensors(await nodeFile(out))).readF32('logits');
    const vocabulary = logits.length / ids.length;
    const likeliest = ids.map((_, t) => {
      const place = logits.subarray(t * vocabulary, (t + 1) * vocabulary);
      return place.indexOf(place.reduce((a, b) => Math.max(a, b)));
    });
    expect(likeliest.slice(prompt - 1, -1)).toEqual(ids.slice(prompt));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
