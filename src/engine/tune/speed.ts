/**
 * How fast a device is at what a step consists of, and from that how long a plan takes before it has run: each dispatch as long as
 * its operations or its traffic take, whichever is longer (the roofline of Williams et al. 2009, "Roofline: an insightful visual
 * performance model"), and what a dispatch takes that does next to nothing.
 */
import { Graph } from '../graph/graph.ts';
import { sizeOf } from '../graph/types.ts';
import { matmul, scale } from '../ops/index.ts';
import { plan, type Plan } from '../plan/plan.ts';
import type { Device } from '../run/device.ts';
import { Arena, Program } from '../run/program.ts';
import { noise } from './noise.ts';

export interface Speed {
  /** Of a matmul that is large enough to keep the device busy. */
  readonly flops_per_second: number;
  /** Read and written, of an elementwise kernel over more than caches hold. */
  readonly bytes_per_second: number;
  readonly seconds_per_dispatch: number;
}

/** Rows and columns of the matmuls that are timed: the large one where the small one leaves much of a GPU idle. */
export const SMALL = 512;
const LARGE = 2048;
const TOO_SHORT_MS = 2;
/** f32 of the tensor that is copied. */
const COPIED = { software: 2 ** 22, hardware: 2 ** 24 };
const DISPATCHES = 256;

/** @param small `matmulRate(device, SMALL)` */
export async function measureSpeed(device: Device, small: number): Promise<Speed> {
  const isTooSmall = (1000 * 2 * SMALL ** 3) / small < TOO_SHORT_MS;
  const flops_per_second = isTooSmall ? await matmulRate(device, LARGE) : small;
  const seconds_per_dispatch = await dispatchSeconds(device);
  const size = COPIED[device.adapter.software ? 'software' : 'hardware'];
  const copy = new Graph();
  copy.output('y', scale(copy.state('x', [size]), 2));
  const bytes_per_second = (2 * 4 * size) / (await seconds(device, copy));
  return { flops_per_second, bytes_per_second, seconds_per_dispatch };
}

/** Seconds of a replay of a plan, foretold. */
export function secondsOf({ dispatches }: Pick<Plan, 'dispatches'>, speed: Speed): number {
  return dispatches.reduce(
    (sum, { flops, bytes }) =>
      sum + speed.seconds_per_dispatch + Math.max(flops / speed.flops_per_second, bytes / speed.bytes_per_second),
    0,
  );
}

/** Float operations a second of a product of two square matrices. */
export async function matmulRate(device: Device, size: number): Promise<number> {
  const graph = new Graph();
  graph.output('y', matmul(graph.state('a', [size, size]), graph.state('b', [size, size]), { transB: true }));
  return (2 * size ** 3) / (await seconds(device, graph));
}

async function dispatchSeconds(device: Device): Promise<number> {
  const graph = new Graph();
  let x = graph.state('x', [64]);
  for (let i = 0; i < DISPATCHES; i++) x = scale(x, 1);
  graph.output('y', x);
  return (await seconds(device, graph)) / DISPATCHES;
}

/** Of a replay; the first may still compile. */
async function seconds(device: Device, graph: Graph): Promise<number> {
  const states = [...graph.sources.values()].map(({ name, value: { type } }) => {
    const size = sizeOf(type.shape);
    // a GPU multiplies zeros faster; a copy does not care
    return [name, device.tensor(type, type.shape.length > 1 ? noise(size, 1) : undefined)] as const;
  });
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), new Map(states), arena);
  try {
    return Math.min(await program.time({}), await program.time({}, 2)) / 1000;
  } finally {
    program.free();
    arena.free();
    for (const [, tensor] of states) device.freeTensor(tensor);
  }
}
