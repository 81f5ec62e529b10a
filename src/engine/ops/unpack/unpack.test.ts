/**
 * Weights held packed: every kernel that reads them against the float64 reference of the numbers that they hold, in every
 * variant and layout. What packing itself loses is formats/pack-weights.test.ts's.
 */
import { describe, expect, it } from 'vitest';
import { pack, unpack as numbersOf } from '../../../formats/pack-weights.ts';
import { gradients } from '../../graph/autodiff.ts';
import { Graph } from '../../graph/graph.ts';
import { interpret } from '../../graph/interpret.ts';
import { BLOCKS, type PackedDType } from '../../graph/packing.ts';
import { bytesOf, type Value } from '../../graph/types.ts';
import { plan } from '../../plan/plan.ts';
import { Arena, Program } from '../../run/program.ts';
import { expectClose, floats, integers, testDevice, type OpInput } from '../../testing.ts';
import { embedding, linearLoss, linearSample, linearTopk, matmul, sumSquares } from '../index.ts';
import { unpack } from './unpack.ts';

async function check(
  dtype: PackedDType,
  weight: OpInput,
  inputs: readonly OpInput[],
  build: (weight: Value, ...inputs: Value[]) => readonly Value[],
  subgroups = true,
): Promise<void> {
  const device = await testDevice();
  const graph = new Graph();
  const held = graph.parameter('weight', weight.shape, { dtype });
  const values = inputs.map(({ shape, data }, i) =>
    graph.input(`in${i}`, shape, data instanceof Int32Array ? 'i32' : 'f32'),
  );
  const outputs = build(held, ...values);
  outputs.forEach((value, i) => graph.output(`out${i}`, value));
  const words = pack(dtype, weight.data as Float32Array);
  const bindings = new Map(inputs.map(({ data }, i) => [`in${i}`, Float64Array.from(data)]));
  bindings.set('weight', Float64Array.from(numbersOf(dtype, words, weight.data.length)));
  const wanted = interpret(graph, bindings, outputs);

  const arena = new Arena(device);
  const limits = { ...device.limits, subgroupSize: subgroups ? device.limits.subgroupSize : undefined };
  const tensor = device.tensor(held.type, words);
  expect(bytesOf(held.type)).toBe(4 * words.length);
  const program = await Program.create(device, plan(graph, limits), new Map([['weight', tensor]]), arena);
  const got = await program.run(Object.fromEntries(inputs.map(({ data }, i) => [`in${i}`, data])));
  // products of K numbers, as in matmul.test.ts, and one rounding more for each weight
  outputs.forEach((_, i) => expectClose(got.get(`out${i}`)!, wanted[i]!.data, 3e-6, `${dtype} output ${i}`));
  program.free();
  arena.free();
  device.freeTensor(tensor);
}

describe.each(Object.keys(BLOCKS) as PackedDType[])('a weight held as %s', (dtype) => {
  for (const [M, N, K] of [
    [1, 96, 64],
    [3, 70, 132],
    [37, 33, 20],
    [40, 48, 64],
    [65, 34, 30],
    [5, 7, 9],
  ] as const)
    for (const transB of [true, false])
      it(`multiplies N${transB ? 'T' : 'N'} ${M}x${K}x${N}`, async () => {
        const weight = floats(transB ? [N, K] : [K, N], 3);
        for (const subgroups of [true, false])
          await check(dtype, weight, [floats([M, K], 1)], (w, x) => [matmul(x!, w, { transB })], subgroups);
      });

  it('hands a gradient to what it multiplies', () =>
    check(dtype, floats([48, 32], 5), [floats([24, 32], 1), floats([24, 48], 2)], (w, x, g) => {
      const y = matmul(x!, w, { transB: true });
      return [gradients(x!.graph as Graph, y, g!, [x!]).get(x!)!];
    }));

  it('is a table of rows', async () => {
    for (const width of [32, 12, 7])
      await check(dtype, floats([9, width], 4), [integers([2, 3], [0, 8, 3, 3, 1, 7])], (w, ids) => [
        embedding(w, ids!),
      ]);
  });

  it('is the head of a loss and of a teacher', async () => {
    const inputs = [floats([1, 24, 32], 6), integers([1, 24], [...Array(24).keys()]), floats([1], 7)];
    await check(dtype, floats([50, 32], 8), inputs, (w, hidden, targets, scale) => {
      const attributes = {
        objective: 'none',
        temperature: 1,
        alpha: 0,
        tail: 'bucket',
        label_smoothing: 0,
        hiddenGradient: true,
        weightGradient: false,
      } as const;
      const { loss } = linearLoss(hidden!, w, targets!, scale!, attributes);
      return [loss, gradients(loss.graph as Graph, loss, scale!, [hidden!]).get(hidden!)!];
    });
    await check(dtype, floats([50, 32], 8), [floats([1, 24, 32], 6)], (w, hidden) => {
      const { logits, log_z } = linearTopk(hidden!, w, { k: 5, temperatures: [1, 2] });
      return [logits, log_z];
    });
    const points = { shape: [1, 24, 5], data: Float32Array.from({ length: 120 }, (_, i) => ((i % 5) + 0.37) / 5) };
    await check(dtype, floats([50, 32], 8), [floats([1, 24, 32], 6), points], (w, hidden, points) => {
      const { ids, logits, log_z } = linearSample(hidden!, w, points!, { temperatures: [1, 2] });
      return [ids, logits, log_z];
    });
  });

  it('is unpacked for an op that reads f32', () => check(dtype, floats([6, 32], 9), [], (w) => [sumSquares(w)]));

  it('is never trained', () =>
    expect(() => new Graph().parameter('w', [4, 4], { trainable: true, dtype })).toThrow(/is trained/));
});

it('is unpacked by more than 65,535 workgroups', { timeout: 300_000 }, async () => {
  const device = await testDevice();
  const odd = floats([599_179, 7], 9);
  const graph = new Graph();
  graph.output('out', unpack(graph.parameter('weight', odd.shape, { dtype: 'f16' })));
  const planned = plan(graph, device.limits);
  expect(planned.dispatches[0]!.dispatch.workgroups.reduce((a, b) => a * b)).toBeGreaterThan(65_535);
  await check('f16', odd, [], (weight) => [unpack(weight)]);
});
