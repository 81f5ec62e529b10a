/** One pass over sequences of different lengths, shorter ones padded at their end: how outputs to compare with are made. */
import type { Graph } from '../engine/graph/graph.ts';
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program, type Outputs } from '../engine/run/program.ts';

export type Sequences = readonly (readonly number[])[];

/** [rows, tokens] of a batch that holds all of them. */
export function shapeOf(sequences: Sequences): [rows: number, length: number] {
  return [sequences.length, Math.max(...sequences.map((sequence) => sequence.length))];
}

/**
 * @param graph with inputs i32 [rows, tokens]: `input_ids`, `segments` (0 where there is only padding) and those of `others`
 * @param others the value of each at a place of a row
 */
export async function runPadded(
  device: Device,
  graph: Graph,
  tensors: ReadonlyMap<string, DeviceTensor>,
  sequences: Sequences,
  others: Readonly<Record<string, (at: number) => number>>,
): Promise<Outputs> {
  const [rows, length] = shapeOf(sequences);
  const filled = (value: (row: number, at: number) => number | undefined) =>
    Int32Array.from({ length: rows * length }, (_, i) => value(Math.floor(i / length), i % length) ?? 0);
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), tensors, arena);
  try {
    return await program.run({
      input_ids: filled((row, at) => sequences[row]![at]),
      segments: filled((row, at) => (at < sequences[row]!.length ? 1 : 0)),
      ...Object.fromEntries(Object.entries(others).map(([name, value]) => [name, filled((_row, at) => value(at))])),
    });
  } finally {
    program.free();
    arena.free();
  }
}
