/** The bench of the ops: none is left out, and each has a figure that can be true. No time is judged. */
import { describe, expect, it } from 'vitest';
import type { OpDefinition } from '../../engine/graph/types.ts';
import { testDevice } from '../../engine/testing.ts';
import { planOf } from './measure.ts';
import { opCases, type OpSizes } from './op-cases.ts';
import type { BenchResult } from './protocol.ts';
import { measureOps } from './suites/ops.ts';

const SMALL: OpSizes = {
  tokens: 16,
  hidden_size: 32,
  intermediate_size: 64,
  vocab_size: 96,
  heads: 2,
  kv_heads: 1,
  head_dim: 16,
  k: 4,
};

/** What suites of their own measure at many shapes. */
const ELSEWHERE = /^(matmul|attention-)/;

const modules = import.meta.glob<Record<string, unknown>>(
  ['../../engine/ops/**/*.ts', '!../../engine/ops/**/*.test.ts'],
  { eager: true },
);
const isOp = (value: unknown): value is OpDefinition =>
  typeof value === 'object' && value !== null && 'infer' in value && 'cost' in value;
const OPS = Object.values(modules).flatMap((exported) => Object.values(exported).filter(isOp));

describe('the bench of the ops', () => {
  it('has a case for every op with a kernel', async () => {
    expect(OPS.length).toBeGreaterThan(40);
    const { limits } = await testDevice();
    const planned = Object.values(opCases(SMALL)).flatMap((build) => planOf(build, limits).dispatches);
    const measured = new Set(planned.map(({ op }) => op));
    const left = OPS.filter(({ name, kernel }) => kernel && !ELSEWHERE.test(name) && !measured.has(name));
    expect(left.map(({ name }) => name)).toEqual([]);
  });

  it('gives each its time, its rates and its share of the floor', { timeout: 300_000 }, async () => {
    const device = await testDevice();
    const results: BenchResult[] = [];
    const add = (result: BenchResult): void => void results.push(result);
    await measureOps({ device, peak_gflops: 10, stream_gbps: 10, add, tell: () => undefined }, SMALL);
    const cases = Object.keys(opCases(SMALL));
    for (const name of cases)
      expect(
        results.some((result) => result.name === name || result.name.startsWith(`${name} › `)),
        name,
      ).toBe(true);
    for (const { name, ms, gflops, gbps, fraction_of_floor } of results) {
      expect(ms, name).toBeGreaterThan(0);
      expect(gflops, name).toBeGreaterThanOrEqual(0);
      expect(gbps, name).toBeGreaterThan(0);
      expect(fraction_of_floor, name).toBeGreaterThan(0);
    }
  });
});
