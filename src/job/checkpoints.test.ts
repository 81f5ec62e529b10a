/** Which checkpoints stay, and which is gone back to when the newest does not read back. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemoryKeep, type Keep } from '../formats/keep.ts';
import { Damaged } from '../store/faults.ts';
import { Checkpoints } from './checkpoints.ts';

const save = (checkpoints: Checkpoints, step: number, saved = false, eval_loss?: number): Promise<number> =>
  checkpoints.save(
    { step, tensors: [{ name: 'parameter.0', data: Float32Array.of(step, Math.PI, -0, 1e-42) }] },
    { step, saved, eval_loss, log: { num_tokens: 10 * step, since: { steps: 1, sums: { loss: 0.1 + step } } } },
  );

describe('checkpoints', () => {
  it('come back as they were, to the bit', async () => {
    const checkpoints = new Checkpoints(new MemoryKeep());
    expect(await checkpoints.latest()).toBeUndefined();
    await save(checkpoints, 7, true, 0.25);
    const { state, progress } = (await checkpoints.latest())!;
    expect(state.step).toBe(7);
    expect(state.tensors[0]!.name).toBe('parameter.0');
    expect(new Uint32Array(state.tensors[0]!.data.slice().buffer)).toEqual(
      new Uint32Array(Float32Array.of(7, Math.PI, -0, 1e-42).buffer),
    );
    expect(progress).toEqual({
      step: 7,
      saved: true,
      eval_loss: 0.25,
      log: { num_tokens: 70, since: { steps: 1, sums: { loss: 7.1 } } },
    });
  });

  it('are passed over where they are damaged, for the newest before', async () => {
    const keep = new MemoryKeep();
    const damaged = new Set<string>();
    const watched: Keep = {
      get: async (key) => {
        if (damaged.has(key)) throw new Damaged(key, 'a part is missing');
        return keep.get(key);
      },
      put: (entries) => keep.put(entries),
      keys: (prefix) => keep.keys(prefix),
      delete: (keys) => keep.delete(keys),
    };
    const checkpoints = new Checkpoints(watched);
    for (const step of [2, 4, 10]) await save(checkpoints, step);
    damaged.add('000000010/state.safetensors');
    expect((await checkpoints.latest())!.state.step).toBe(4);
    damaged.add('000000004/state.json');
    expect((await checkpoints.latest())!.state.step).toBe(2);
    damaged.add('000000002/state.json');
    expect(await checkpoints.latest()).toBeUndefined();
  });

  it('stay as save_total_limit says, and the two newest and the best always', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: 99 }), { minLength: 1, maxLength: 8 }),
        fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
        fc.option(fc.integer({ min: 1, max: 3 })),
        fc.nat(7),
        async (unordered, saves, limit, pick) => {
          const steps = unordered.sort((a, b) => a - b);
          const checkpoints = new Checkpoints(new MemoryKeep());
          for (const [i, step] of steps.entries()) await save(checkpoints, step, saves[i]);
          const best = steps[pick % steps.length]!;
          await checkpoints.prune(limit, best);
          const saved = steps.filter((_, i) => saves[i]);
          const expected = new Set([...steps.slice(-2), ...(limit === null ? saved : saved.slice(-limit)), best]);
          expect(await checkpoints.steps()).toEqual([...expected].sort((a, b) => a - b));
        },
      ),
      { numRuns: 50 },
    );
  });
});
