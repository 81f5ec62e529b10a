/**
 * The judge of every op, for tests: its kernel on the real adapter against its float64 reference, and its gradient
 * (as a graph, evaluated in float64) against central finite differences of that reference.
 */
import { expect } from 'vitest';
import { nodeGpu } from '../cli/node-gpu.ts';
import { gradients } from './graph/autodiff.ts';
import { Graph } from './graph/graph.ts';
import { interpret } from './graph/interpret.ts';
import { sizeOf, type DType, type Value } from './graph/types.ts';
import { mul } from './ops/mul/mul.ts';
import { sumAll } from './ops/sum-all/sum-all.ts';
import { plan } from './plan/plan.ts';
import { Device, type DeviceTensor } from './run/device.ts';
import { Arena, Program, type HostArray } from './run/program.ts';
import { noise } from './tune/noise.ts';

export { noise };

let device: Promise<Device> | undefined;

/** One device for all tests of a file. */
export function testDevice(): Promise<Device> {
  return (device ??= nodeGpu().then((gpu) => Device.create(gpu)));
}

export interface OpInput {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

export function floats(shape: readonly number[], seed: number, scale = 1): OpInput {
  return { shape, data: noise(sizeOf(shape), seed).map((value) => value * scale) };
}

export function integers(shape: readonly number[], values: readonly number[]): OpInput {
  return { shape, data: Int32Array.from(values) };
}

export interface OpCase {
  readonly inputs: readonly OpInput[];
  /** Builds the op under test; inputs that an op changes in place must be states (`states` names their indices). */
  readonly build: (...values: Value[]) => Value | readonly Value[];
  readonly states?: readonly number[];
  /** |difference| allowed, relative to the largest entry of the tensor. Default 2e-6 · sqrt(terms) is the caller's to reason. */
  readonly tolerance?: number;
  /** Indices of inputs whose gradient is checked by finite differences; all f32 inputs but states by default. */
  readonly gradientOf?: readonly number[];
  /** false: the kernels of a device without subgroup functions, whatever this one has. */
  readonly subgroups?: boolean;
  /** The kernels of a device that binds no more bytes than this, and no window may pass it. */
  readonly maxBinding?: number;
  /** Some dispatch must take more workgroups than one dimension of a grid has (65,535). */
  readonly manyWorkgroups?: boolean;
  /** Outputs that take part in the gradient check; all f32 by default. */
  readonly through?: readonly number[];
}

const dtypeOf = (input: OpInput): DType => (input.data instanceof Int32Array ? 'i32' : 'f32');

function buildCase(test: OpCase): { graph: Graph; values: Value[]; outputs: readonly Value[] } {
  const graph = new Graph();
  const values = test.inputs.map((input, i) =>
    test.states?.includes(i)
      ? graph.state(`in${i}`, input.shape, dtypeOf(input))
      : graph.input(`in${i}`, input.shape, dtypeOf(input)),
  );
  const built = test.build(...values);
  return { graph, values, outputs: Array.isArray(built) ? (built as readonly Value[]) : [built as Value] };
}

const bindingsOf = (test: OpCase): Map<string, Float64Array> =>
  new Map(test.inputs.map((input, i) => [`in${i}`, Float64Array.from(input.data)]));

/** Kernel against reference, all outputs. */
export async function checkKernel(test: OpCase): Promise<void> {
  const device = await testDevice();
  const { graph, values, outputs } = buildCase(test);
  outputs.forEach((value, i) => graph.output(`out${i}`, value));
  const wanted = interpret(graph, bindingsOf(test), outputs);
  const tensors = new Map<string, DeviceTensor>();
  for (const i of test.states ?? []) tensors.set(`in${i}`, device.tensor(values[i]!.type, test.inputs[i]!.data));
  const arena = new Arena(device);
  const { maxBinding = device.limits.maxStorageBufferBindingSize } = test;
  const limits = {
    ...device.limits,
    maxStorageBufferBindingSize: maxBinding,
    subgroupSize: test.subgroups === false ? undefined : device.limits.subgroupSize,
  };
  const planned = plan(graph, limits);
  for (const { dispatch } of planned.dispatches)
    for (const { operand, length, offset = 0, name } of dispatch.bindings)
      expect(4 * (length ?? operand.size - offset), `${dispatch.label}: bytes of ${name}`).toBeLessThanOrEqual(
        maxBinding,
      );
  if (test.manyWorkgroups) {
    const counts = planned.dispatches.map(({ dispatch }) => dispatch.workgroups.reduce((a, b) => a * b));
    expect(Math.max(...counts), 'workgroups of a dispatch').toBeGreaterThan(65535);
  }
  const program = await Program.create(device, planned, tensors, arena);
  const inputs: Record<string, HostArray> = {};
  test.inputs.forEach((input, i) => (inputs[`in${i}`] = input.data));
  const got = await program.run(inputs);
  program.free();
  arena.free();
  for (const tensor of tensors.values()) device.freeTensor(tensor);
  outputs.forEach((_, i) => expectClose(got.get(`out${i}`)!, wanted[i]!.data, test.tolerance ?? 1e-5, `output ${i}`));
}

/** Largest difference relative to the tensor's largest entry. */
export function expectClose(got: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number, what: string): void {
  expect(got.length, `${what}: length`).toBe(wanted.length);
  let largest = 0;
  let difference = 0;
  for (let i = 0; i < wanted.length; i++) {
    largest = Math.max(largest, Math.abs(wanted[i]!));
    const d = Math.abs(got[i]! - wanted[i]!);
    if (!(d <= difference)) difference = d;
  }
  expect(difference / (largest || 1), `${what}: largest difference over ${largest}`).toBeLessThanOrEqual(tolerance);
}

/** Gradient graph against central differences, both in float64: 1e-6 is what differences of step 1e-5 leave. */
export function checkGradient(test: OpCase, tolerance = 1e-6): void {
  const { graph, values, outputs } = buildCase(test);
  const through = test.through ?? outputs.flatMap((value, i) => (value.type.dtype === 'f32' ? [i] : []));
  const wrt = (
    test.gradientOf ??
    test.inputs.flatMap((input, i) => (dtypeOf(input) === 'f32' && !test.states?.includes(i) ? [i] : []))
  ).map((i) => i);
  // a scalar that every output takes part in: sum of outputs times fixed noise
  const bindings = bindingsOf(test);
  const terms = through.map((i) => {
    const weights = graph.input(`weights${i}`, outputs[i]!.type.shape);
    bindings.set(`weights${i}`, Float64Array.from(noise(sizeOf(outputs[i]!.type.shape), 1000 + i)));
    return sumAll(mul(outputs[i]!, weights));
  });
  const seed = graph.input('seed', [1]);
  bindings.set('seed', Float64Array.of(1));
  const found = terms.map((term) =>
    gradients(
      graph,
      term,
      seed,
      wrt.map((i) => values[i]!),
    ),
  );
  const scalar = (at: Map<string, Float64Array>): number =>
    interpret(graph, new Map([...at].map(([name, data]) => [name, data.slice()])), terms).reduce(
      (sum, term) => sum + term.data[0]!,
      0,
    );

  for (const i of wrt) {
    const parts = found.flatMap((map) => (map.has(values[i]!) ? [map.get(values[i]!)!] : []));
    const analytic = new Float64Array(test.inputs[i]!.data.length);
    for (const part of interpret(graph, new Map([...bindings].map(([name, data]) => [name, data.slice()])), parts)) {
      part.data.forEach((value, j) => (analytic[j]! += value));
    }
    const numeric = analytic.map((_, j) => {
      const at = (step: number): number => {
        const moved = bindings.get(`in${i}`)!.slice();
        moved[j]! += step;
        return scalar(new Map([...bindings, [`in${i}`, moved]]));
      };
      return (at(1e-5) - at(-1e-5)) / 2e-5;
    });
    expectClose(analytic, numeric, tolerance, `gradient of input ${i}`);
  }
}
