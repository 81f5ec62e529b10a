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
/**
 * Rounds of one figure stop after this long; two are made in any case. On shared machines the same kernel was seen to take twice
 * as long for seconds on end.
 */
const BUDGET_MS = 3000;
const MOST_ROUNDS = 20;

export type Build = (graph: Graph) => readonly Value[];

/** The best of a few rounds, milliseconds. */
export async function best(round: () => Promise<number>): Promise<number> {
  const [least] = await bestInTurn([round]);
  return least!;
}

/** The best round of each, in turn: what else a machine does, or how warm it has become, meets what is compared alike. */
async function bestInTurn(rounds: readonly (() => Promise<number>)[]): Promise<number[]> {
  const least = rounds.map(() => Infinity);
  const end = performance.now() + BUDGET_MS * rounds.length;
  for (let i = 0; i < 2 || (i < MOST_ROUNDS && performance.now() < end); i++)
    for (const [at, round] of rounds.entries()) least[at] = Math.min(least[at]!, await round());
  return least;
}

/** The plan of a graph whose every value is an output. */
export function planOf(build: Build, limits: Device['limits']): Plan {
  const graph = new Graph();
  build(graph).forEach((value, i) => graph.output(`out${i}`, value));
  return plan(graph, limits);
}

export interface Timed {
  readonly ms: number;
  readonly flops: number;
}

/** Builds a graph whose every value is an output, fills its inputs with noise and times it. */
export async function timeGraph(device: Device, build: Build): Promise<Timed> {
  const [timed] = await timeInTurn(device, [build]);
  return timed!;
}

/** The same of several graphs, whose rounds come in turn and last about as long as each other. */
export async function timeInTurn(device: Device, builds: readonly Build[]): Promise<Timed[]> {
  const prepared: { readonly program: Program; readonly inputs: Record<string, HostArray>; readonly once: number }[] =
    [];
  const prepare = async ([build, ...others]: readonly Build[]): Promise<Timed[]> => {
    if (build)
      return ready(device, build, async (program, inputs) => {
        // some drivers compile in the first run: it says nothing of how long a round is
        const first = await program.time(inputs);
        prepared.push({ program, inputs, once: first > BUDGET_MS ? first : await program.time(inputs) });
        return prepare(others);
      });
    const round = Math.max(LEAST_MS, ...prepared.map(({ once }) => once));
    const times = prepared.map(({ once }) => Math.ceil(round / once));
    const least = await bestInTurn(
      prepared.map(
        ({ program, inputs }, i) =>
          () =>
            program.time(inputs, times[i]),
      ),
    );
    return prepared.map(({ program, once }, i) => ({
      ms: times[i] === 1 ? Math.min(once, least[i]!) : least[i]!,
      flops: program.plan.flops,
    }));
  };
  return prepare(builds);
}

/** The same op by op: all dispatches of an op together, in the order in which they first run. */
export function profileGraph(
  device: Device,
  build: Build,
): Promise<{ op: string; ms: number; flops: number; bytes: number }[]> {
  return ready(device, build, async (program, inputs) => {
    const lines = await program.profile(inputs, LEAST_MS);
    const byOp = new Map<string, { op: string; ms: number; flops: number; bytes: number }>();
    const of = (op: string): { op: string; ms: number; flops: number; bytes: number } => {
      if (!byOp.has(op)) byOp.set(op, { op, ms: 0, flops: 0, bytes: 0 });
      return byOp.get(op)!;
    };
    for (const { op, flops, bytes } of program.plan.dispatches) {
      of(op).flops += flops;
      of(op).bytes += bytes;
    }
    for (const { op, ms, count } of lines) of(op).ms += count * ms;
    return [...byOp.values()];
  });
}

/** A program with inputs of noise and states of zeros, freed once `use` is done. */
async function ready<Result>(
  device: Device,
  build: Build,
  use: (program: Program, inputs: Record<string, HostArray>) => Promise<Result>,
): Promise<Result> {
  const planned = planOf(build, device.limits);
  const states = new Map(
    planned.sources
      .filter(({ kind }) => kind === 'state')
      .map(({ name, value }) => [name, device.tensor(value.type)] as const),
  );
  const arena = new Arena(device);
  const program = await Program.create(device, planned, states, arena);
  try {
    const inputs: Record<string, HostArray> = {};
    for (const { kind, name, value } of planned.sources) {
      if (kind !== 'input') continue;
      const size = sizeOf(value.type.shape);
      inputs[name] = value.type.dtype === 'i32' ? new Int32Array(size).fill(1) : noise(size);
    }
    return await use(program, inputs);
  } finally {
    program.free();
    arena.free();
    for (const tensor of states.values()) device.freeTensor(tensor);
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
