import { setImmediate as nodes } from 'node:timers';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { waitPolitely } from './wait-politely.ts';

/** What a binding hands to `setImmediate`: no name, and no JavaScript to show. */
const native = (call: () => void): (() => void) => new Proxy((() => call).call(undefined), {});

describe('waiting politely', () => {
  afterEach(() => {
    globalThis.setImmediate = nodes;
    vi.restoreAllMocks();
  });

  it('leaves the calls of JavaScript as they were', async () => {
    waitPolitely();
    const timers = vi.spyOn(globalThis, 'setTimeout');
    expect(await new Promise((resolve) => setImmediate((a, b) => resolve([a, b]), 1, 2))).toEqual([1, 2]);
    expect(await promisify(setImmediate)('value')).toBe('value');
    const cancelled = setImmediate(() => expect.unreachable('was cancelled'));
    clearImmediate(cancelled);
    // in turn after turn, however long that goes on
    const end = performance.now() + 5;
    await new Promise<void>((resolve) => {
      const again = (): void => void (performance.now() < end ? setImmediate(again) : resolve());
      again();
    });
    expect(timers).not.toHaveBeenCalled();
  });

  it('asks at once first, then after pauses, and at once again in the next wait', async () => {
    waitPolitely();
    const timers = vi.spyOn(globalThis, 'setTimeout');
    for (const wait of [1, 2]) {
      timers.mockClear();
      let turns = 0;
      let before: number | undefined;
      await new Promise<void>((resolve) => {
        const ask = native(() => {
          turns++;
          before ??= timers.mock.calls.length;
          if (timers.mock.calls.length < 5) setImmediate(ask);
          else resolve();
        });
        setImmediate(ask);
      });
      expect(before, `pauses before the first turn of wait ${wait}`).toBe(0);
      expect(turns, 'the first turn and one after each pause').toBeGreaterThanOrEqual(6);
    }
  });

  it('goes on to ask if one turn threw', () => {
    const turns: (() => void)[] = [];
    globalThis.setImmediate = ((turn: () => void) => turns.push(turn)) as unknown as typeof setImmediate;
    const timers = vi.spyOn(globalThis, 'setTimeout');
    waitPolitely();
    setImmediate(
      native(() => {
        throw new Error('lost');
      }),
    );
    expect(() => turns.pop()!()).toThrow('lost');
    setImmediate(native(() => undefined));
    expect(turns).toHaveLength(1);
    expect(timers).not.toHaveBeenCalled();
  });
});
