/**
 * How the bench measures: a graph is planned and compiled like any other, replayed in rounds, and its best round counts,
 * because other work on a machine only ever adds time.
 */
import { Graph } from '../../engine/graph/graph.ts';
import { sizeOf, type Value } from '../../engine/graph/types.ts';
import { plan, type Plan } from '../../engine/plan/plan.ts';
import type { Device } from '../../engine/run/device.ts';
import { Arena, Program, type HostArray } from '../../engine/run/program.ts';

/** A round lasts at least this long, so that the wait for the queue does not count. */
const LEAST_MS = 20;
/** Rounds of one figure stop after this long; two are made in any case. */
const BUDGET_MS = 1000;
const MOST_ROUNDS = 6;

/** The best of a few rounds, milliseconds. */
export async function best(round: () => Promise<number>): Promise<number> {
  let least = Infinity;
  let spent = 0;
  for (let i = 0; i < 2 || (i < MOST_ROUNDS && spent < BUDGET_MS); i++) {
    const ms = await round();
    least = Math.min(least, ms);
    spent += ms;
  }
  return least;
}

/** The plan of a graph whose every value is an output. */
export function planOf(build: (graph: Graph) => readonly Value[], limits: Device['limits']): Plan {
  const graph = new Graph();
  build(graph).forEach((value, i) => graph.output(`out${i}`, value));
  return plan(graph, limits);
}

/** Builds a graph whose every value is an output, fills its inputs with noise and times it. */
export async function timeGraph(
  device: Device,
  build: (graph: Graph) => readonly Value[],
): Promise<{ ms: number; flops: number }> {
  const ready = planOf(build, device.limits);
  const arena = new Arena(device);
  const program = await Program.create(device, ready, new Map(), arena);
  try {
    const inputs: Record<string, HostArray> = {};
    for (const { kind, name, value } of ready.sources) {
      if (kind !== 'input') continue;
      const size = sizeOf(value.type.shape);
      inputs[name] = value.type.dtype === 'i32' ? new Int32Array(size).fill(1) : noise(size);
    }
    const once = await program.time(inputs);
    const times = Math.ceil(LEAST_MS / once);
    const ms = Math.min(times === 1 ? once : Infinity, await best(() => program.time(inputs, times)));
    return { ms, flops: ready.flops };
  } finally {
    program.free();
    arena.free();
  }
}

/** Repeatable numbers in [-scale, scale). */
export function noise(count: number, scale = 1): Float32Array<ArrayBuffer> {
  let state = 12345;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return scale * (state / 2 ** 31 - 1);
  });
}
