import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MemorySource } from '../../../formats/byte-source.ts';
import { openSafetensors } from '../../../formats/safetensors.ts';
import { checkGradient, checkKernel, expectClose, floats, integers, testDevice, type OpCase } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { plan } from '../../plan/plan.ts';
import { Arena, Program } from '../../run/program.ts';
import { divergenceReference, type DivergenceChoice } from './divergence.ts';
import { linearLoss, type LinearLossAttributes } from './linear-loss.ts';
import { distinct, draw } from '../linear-sample/draw.ts';
import { linearTopk } from '../linear-topk/linear-topk.ts';
import { philoxUniform } from '../philox.ts';

const base: LinearLossAttributes = {
  objective: 'none',
  temperature: 1,
  alpha: 0,
  tail: 'bucket',
  label_smoothing: 0,
  hiddenGradient: true,
  weightGradient: true,
};

/** Rows with targets, some not counted; a teacher whose support does not hold all of the mass, or was drawn. */
function lossCase(rows: number, V: number, k: number, attributes: Partial<LinearLossAttributes>, size = 1): OpCase {
  const all = { ...base, ...attributes };
  const H = 8;
  const targets = Array.from({ length: rows }, (_, row) => (row % 4 === 2 ? -100 : (row * 7) % V));
  const ids = Array.from({ length: rows * k }, (_, i) => (Math.floor(i / k) * 5 + (i % k) * 3) % V);
  const logits = floats([1, rows, k], 5, 2);
  const log_z = { shape: [1, rows], data: new Float32Array(rows) };
  for (let row = 0; row < rows; row++) {
    let sum = 0.3;
    for (let j = 0; j < k; j++) sum += Math.exp((logits.data[row * k + j] as number) / all.temperature);
    log_z.data[row] = Math.log(sum);
  }
  return {
    inputs: [
      floats([1, rows, H], 1, size),
      floats([V, H], 2, size),
      integers([1, rows], targets),
      { shape: [1], data: Float32Array.of(1 / rows) },
      ...(all.objective === 'none' ? [] : [integers([1, rows, k], ids), logits, log_z]),
      ...(all.tail === 'sampling'
        ? [{ shape: [1, rows, k], data: floats([rows * k], 6).data.map((w) => 2 + w) as Float32Array }]
        : []),
    ],
    build: (hidden, weight, target, scale, teacherIds, teacherLogits, logZ, weights) => {
      const { loss, stats } = linearLoss(
        hidden!,
        weight!,
        target!,
        scale!,
        all,
        teacherIds && { ids: teacherIds, logits: teacherLogits!, log_z: logZ!, weights },
      );
      return [loss, stats, ...loss.node.outputs.slice(2)];
    },
    gradientOf: [0, 1],
    through: [0],
    // gradients are differences of probabilities: a few f32 roundings of numbers below 1
    tolerance: 1e-5,
  };
}

/** Every second row has one entry less than k, filled up as the job does it. */
function withAbsent(test: OpCase): OpCase {
  const [rows, k] = test.inputs[4]!.shape.slice(1) as [number, number];
  const logits = test.inputs[5]!.data.slice();
  for (let row = 0; row < rows; row += 2) logits[row * k + k - 1] = -1e30;
  return { ...test, inputs: test.inputs.map((input, i) => (i === 5 ? { ...input, data: logits } : input)) };
}

/** The same where there is a teacher. */
const withAbsentWhere = (test: OpCase): OpCase => (test.inputs.length > 4 ? withAbsent(test) : test);

function buildOf({ inputs, build }: OpCase): void {
  const graph = new Graph();
  build(
    ...inputs.map(({ shape, data }, i) => graph.input(`in${i}`, shape, data instanceof Int32Array ? 'i32' : 'f32')),
  );
}

const variants: [string, Partial<LinearLossAttributes>][] = [
  ['cross entropy', {}],
  ['label smoothing', { label_smoothing: 0.1 }],
  ['forward KL, bucket', { objective: 'forward_kl', alpha: 1, temperature: 2 }],
  ['forward KL, ignore', { objective: 'forward_kl', alpha: 0.5, temperature: 1, tail: 'ignore' }],
  [
    'forward KL, renormalize',
    { objective: 'forward_kl', alpha: 0.7, temperature: 5, tail: 'renormalize', label_smoothing: 0.05 },
  ],
  ['forward KL, drawn', { objective: 'forward_kl', alpha: 0.7, temperature: 2, tail: 'sampling' }],
];

const others: [string, Partial<LinearLossAttributes>][] = [
  ['reverse KL, bucket', { objective: 'reverse_kl', alpha: 1, temperature: 2 }],
  ['reverse KL, renormalize', { objective: 'reverse_kl', alpha: 0.6, temperature: 1, tail: 'renormalize' }],
  ['JSD, bucket', { objective: 'jsd', alpha: 1, temperature: 1, beta: 0.3 }],
  ['JSD, renormalize', { objective: 'jsd', alpha: 0.8, temperature: 3, beta: 0.7, tail: 'renormalize' }],
  ['skew KL, bucket', { objective: 'skew_kl', alpha: 1, temperature: 2 }],
  ['skew KL, ignore', { objective: 'skew_kl', alpha: 0.9, temperature: 1, skew: 0.4, tail: 'ignore' }],
  ['skew KL, renormalize', { objective: 'skew_kl', alpha: 1, temperature: 1, tail: 'renormalize' }],
  ['skew KL, drawn', { objective: 'skew_kl', alpha: 0.9, temperature: 2, skew: 0.3, tail: 'sampling' }],
  ['skew KL of nothing', { objective: 'skew_kl', alpha: 1, temperature: 1, skew: 0 }],
];

/** The hidden gradient is a chain of 60,001 f32 products: roundings of 6e-8 add up to some √60,001 of them. */
const MANY = 6e-8 * 4 * Math.sqrt(60_001);

describe('linear-loss', () => {
  describe('with a bias over the vocabulary', () => {
    const biased = (rows: number, V: number, attributes: Partial<LinearLossAttributes> = {}): OpCase => {
      const all = { ...base, biasGradient: true, ...attributes };
      const without = lossCase(rows, V, 0, all);
      return {
        ...without,
        inputs: [...without.inputs, floats([V], 8)],
        build(hidden, weight, target, scale, bias) {
          const { loss, stats } = linearLoss(hidden!, weight!, target!, scale!, all, undefined, bias);
          return [loss, stats, ...loss.node.outputs.slice(2)];
        },
        gradientOf: [0, 1, 4],
      };
    };
    it('gradient', () => checkGradient(biased(5, 23)));
    it('kernel', () => checkKernel(biased(70, 67)));
    it('kernel, its own gradient alone', () =>
      checkKernel(biased(9, 67, { hiddenGradient: false, weightGradient: false })));
    it('kernel, in chunks', () => checkKernel({ ...biased(130, 60_001), tolerance: MANY }));
  });
  for (const [name, attributes] of others) {
    it(`gradient: ${name}`, () => checkGradient(lossCase(5, 23, 4, attributes)));
    it(`kernel: ${name}`, () => checkKernel(lossCase(21, 67, 6, attributes)));
    it(`kernel, few entries: ${name}`, () => checkKernel(withAbsent(lossCase(9, 67, 6, attributes))));
  }
  describe('with soft-capped logits', () => {
    // logits are some units large: the cap bends all of them
    const capped = (name: string, attributes: Partial<LinearLossAttributes>) =>
      [name, { ...attributes, softcap: 1.2 }] as const;
    for (const [name, attributes] of [...variants, ...others].map((one) => capped(...one))) {
      it(`gradient: ${name}`, () => checkGradient(lossCase(5, 23, 4, attributes, 2)));
      it(`kernel: ${name}`, () => checkKernel(withAbsentWhere(lossCase(21, 67, 6, attributes, 2))));
    }
    it('kernel, a large vocabulary in chunks', () =>
      checkKernel({ ...lossCase(130, 60_001, 6, capped(...variants[2]!)[1]), tolerance: MANY }));
  });
  it('gradient, few entries: what fills a row up belongs to the tail', () =>
    checkGradient(withAbsent(lossCase(5, 23, 4, { objective: 'forward_kl', alpha: 1 }))));

  for (const objective of ['reverse_kl', 'jsd'] as const) {
    it.each(['ignore', 'sampling'] as const)(`refuses ${objective} on the entries alone, %s`, (tail) =>
      expect(() => buildOf(lossCase(3, 11, 2, { objective, alpha: 1, tail }))).toThrow(
        `${objective} is not defined on '${tail}'`,
      ),
    );
  }
  it('takes weights of drawn entries and of no others', () => {
    const { inputs, ...drawn } = lossCase(3, 11, 2, { objective: 'forward_kl', alpha: 1, tail: 'sampling' });
    const known = lossCase(3, 11, 2, { objective: 'forward_kl', alpha: 1 });
    const message = "weights of the entries belong to 'sampling'";
    expect(() => buildOf({ ...drawn, inputs: inputs.slice(0, 7) })).toThrow(message);
    expect(() => buildOf({ ...known, inputs })).toThrow(message);
  });

  for (const [name, attributes] of variants) {
    it(`gradient: ${name}`, () => checkGradient(lossCase(5, 23, 4, attributes)));
    it(`kernel: ${name}`, () => checkKernel(lossCase(70, 67, 6, attributes)));
    it(`kernel, one row: ${name}`, () => checkKernel(lossCase(1, 5, 3, attributes)));
    it(`kernel, no gradient: ${name}`, () =>
      checkKernel(lossCase(9, 67, 6, { ...attributes, hiddenGradient: false, weightGradient: false })));
  }
  for (const [name, attributes] of variants.slice(1, 3)) {
    it(`kernel, a large vocabulary in chunks: ${name}`, () =>
      checkKernel({ ...lossCase(130, 60_001, 6, attributes), tolerance: MANY }));
  }
  it('kernel: a student that is sure of itself keeps its tail', () =>
    checkKernel(lossCase(40, 33, 4, { objective: 'forward_kl', alpha: 1 }, 4)));
});

describe('an objective from drawn entries', () => {
  const V = 60;
  const logits = (seed: number): Float64Array => Float64Array.from(floats([V], seed, 5).data);
  const logSum = (z: Float64Array, T: number): number =>
    Math.log(z.reduce((sum, value) => sum + Math.exp(value / T), 0));
  const teacher = logits(1);
  const student = logits(2);
  const declared = [1, 2];
  const log_z = declared.map((T) => logSum(teacher, T));

  it.each([
    ['forward_kl', 1],
    ['forward_kl', 2],
    ['skew_kl', 1],
    ['skew_kl', 2],
  ] as const)('is, with its gradient, in the mean that of the whole vocabulary: %s at T %d', (objective, T) => {
    const N = 8;
    const RUNS = 20_000;
    const logQ = student.map((value) => value / T - logSum(student, T));
    const compare = (tail: DivergenceChoice['tail'], ids: number[], weights?: number[]): Float64Array => {
      const row = { ids, logits: ids.map((id) => teacher[id]!), log_z: log_z[declared.indexOf(T)]!, weights };
      const { value, forward, gradient } = divergenceReference({ objective, tail, beta: 0.5, skew: 0.1 }, logQ, row, T);
      return Float64Array.of(value, forward, ...gradient);
    };
    const whole = compare('ignore', [...teacher.keys()]);
    const sum = new Float64Array(whole.length);
    const squares = new Float64Array(whole.length);
    for (let run = 0; run < RUNS; run++) {
      const points = Array.from({ length: N }, (_, j) => (j + philoxUniform(7, run, j)) / N);
      const ids = draw(teacher, points, log_z, declared);
      const found = [
        ...distinct(
          ids,
          Array.from(ids, (id) => teacher[id]!),
          log_z,
          declared,
        ),
      ];
      const one = compare(
        'sampling',
        found.map(([at]) => ids[at]!),
        found.map(([, weight]) => weight),
      );
      one.forEach((value, i) => {
        sum[i]! += value;
        squares[i]! += value ** 2;
      });
    }
    // Of numbers this near to normal five standard errors are passed once in two million; the draws are the same each time.
    whole.forEach((wanted, i) => {
      const mean = sum[i]! / RUNS;
      const error = Math.sqrt((squares[i]! / RUNS - mean ** 2) / RUNS);
      expect(Math.abs(mean - wanted), `entry ${i}`).toBeLessThan(5 * error + 1e-12);
    });
    // and these errors are small, so that the bound above says something
    const size = Math.hypot(...whole.subarray(2));
    const spread = Math.sqrt(
      squares.subarray(2).reduce((all, square, i) => all + square / RUNS - (sum[i + 2]! / RUNS) ** 2, 0),
    );
    expect(spread / Math.sqrt(RUNS) / size).toBeLessThan(0.02);
  });
});

/**
 * Two positions over seven tokens in float64 by PyTorch: the mean of TRL's `generalized_jsd_loss` (GKDTrainer) at each β and
 * T, reverse KL, and KL(p ‖ 0.1 p + 0.9 q); with their gradients for the student's logits.
 */
const byPyTorch = {
  student: [1.61, 0.35, 0.18, -1.23, 0.09, -2.74, 0.67, 2.02, -2.87, 1.95, 1.04, 2.48, -1.73, 0.6],
  teacher: [0.84, -0.16, 1.85, 1.63, 0.99, -0.33, -1.36, -2.12, 1.5, 0.48, -0.78, 0.3, -2.37, 1.07],
};
// prettier-ignore
const figures: (Pick<LinearLossAttributes, 'objective' | 'temperature' | 'beta'> & { loss: number; gradient: number[] })[] = [
  { objective: 'jsd', temperature: 1, beta: 0.1, loss: 0.107604659, gradient: [0.01264218, 0.003071245, -0.010350829, -0.008134237, -0.002679077, -0.001224262, 0.006674981, 0.006511335, -0.002594459, -0.000491715, 0.000621757, 0.005164244, -0.000225867, -0.008985295] },
  { objective: 'jsd', temperature: 2, beta: 0.1, loss: 0.039838138, gradient: [0.003006956, 0.001342156, -0.002394803, -0.003131588, -0.000669333, -0.001074459, 0.002921072, 0.003501049, -0.003733957, 0.000455736, 0.000683847, 0.00211199, -0.000235752, -0.002782913] },
  { objective: 'jsd', temperature: 1, beta: 0.5, loss: 0.241295504, gradient: [0.027420007, 0.005758438, -0.025722302, -0.01296725, -0.010452451, -0.002276188, 0.018239747, 0.020031801, -0.002276538, -0.007011923, -2.462e-05, 0.009429058, -0.000760021, -0.019387757] },
  { objective: 'jsd', temperature: 2, beta: 0.5, loss: 0.0956453, gradient: [0.007475988, 0.003095053, -0.006830455, -0.007006064, -0.002699689, -0.002612336, 0.008577502, 0.010007556, -0.005216508, -0.000753539, 0.000756261, 0.003898441, -0.000979613, -0.007712597] },
  { objective: 'jsd', temperature: 1, beta: 0.9, loss: 0.090381736, gradient: [0.00848183, 0.001166592, -0.009583914, -0.003886075, -0.005127344, -0.000728423, 0.009677334, 0.01299954, -0.000558848, -0.005652718, -0.000964408, 0.001239339, -0.000352813, -0.006710093] },
  { objective: 'jsd', temperature: 2, beta: 0.9, loss: 0.03388091, gradient: [0.002471487, 0.000901138, -0.00262146, -0.002284258, -0.001301993, -0.000896409, 0.003731495, 0.004755769, -0.001407844, -0.00089895, -6.1566e-05, 0.000921589, -0.000455241, -0.002853758] },
  { objective: 'reverse_kl', temperature: 1, loss: 1.080196686, gradient: [0.080709345, 0.006159806, -0.113174292, -0.043406164, -0.065222073, -0.008271017, 0.143204395, 0.222725982, -0.006009597, -0.091223773, -0.020948633, -0.019950735, -0.004644503, -0.07994874] },
  { objective: 'skew_kl', temperature: 1, loss: 0.837503922, gradient: [0.10089266, 0.023647871, -0.08935531, -0.054818256, -0.02764633, -0.009160676, 0.056440041, 0.055017973, -0.007360027, -0.011919974, 0.002921126, 0.036671799, -0.002209378, -0.073121519] },
];

describe('against PyTorch, a teacher that is known whole', () => {
  it.each(figures)('$objective, T $temperature, β $beta', async ({ objective, temperature, beta, loss, gradient }) => {
    const V = 7;
    const device = await testDevice();
    const graph = new Graph();
    const identity = Float32Array.from({ length: V * V }, (_, i) => (i % (V + 1) === 0 ? 1 : 0));
    const out = linearLoss(
      graph.input('student', [1, 2, V]),
      graph.constant('identity', [V, V], identity),
      graph.input('targets', [1, 2], 'i32'),
      graph.input('token_scale', [1]),
      { ...base, objective, temperature, beta, alpha: 1, weightGradient: false },
      {
        ids: graph.input('ids', [1, 2, V], 'i32'),
        logits: graph.input('teacher', [1, 2, V]),
        log_z: graph.input('log_z', [1, 2]),
      },
    );
    graph.output('loss', out.loss);
    graph.output('gradient', out.loss.node.outputs[2]!);
    const arena = new Arena(device);
    const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
    const log_z = Float32Array.from([0, 1], (row) =>
      Math.log(byPyTorch.teacher.slice(row * V, row * V + V).reduce((sum, z) => sum + Math.exp(z / temperature), 0)),
    );
    const got = await program.run({
      student: Float32Array.from(byPyTorch.student),
      teacher: Float32Array.from(byPyTorch.teacher),
      ids: Int32Array.from({ length: 2 * V }, (_, i) => i % V),
      targets: Int32Array.of(0, 3),
      token_scale: Float32Array.of(0.5),
      log_z,
    });
    // the loss is D · T²; a few f32 roundings
    expect(got.get('loss')![0]! / temperature ** 2).toBeCloseTo(loss, 5);
    expectClose(
      Float32Array.from(got.get('gradient')!, (g) => g / temperature ** 2),
      gradient,
      1e-5,
      'gradient',
    );
    program.free();
    arena.free();
  });
});

const reference = '../shared/reference/llama/';
describe.skipIf(!existsSync(reference))(
  'linear-loss against PyTorch (kd.safetensors; skipped where ../shared is absent)',
  () => {
    const open = async (name: string) =>
      openSafetensors(new MemorySource(name, Uint8Array.from(readFileSync(reference + name))));

    it('losses to 1e-4 and gradients to 1e-4 of their largest entry, T 1, 2, 5', async () => {
      const device = await testDevice();
      const kd = await open('kd.safetensors');
      const student = await (await open('lora/expected.safetensors')).readF32('logits');
      const [B, T, V] = kd.tensors.get('teacher_logits')!.shape as [number, number, number];
      const teacher = await kd.readF32('teacher_logits');
      const labels = Array.from((await (await open('inputs.safetensors')).read('labels')) as BigInt64Array, Number);
      const targets = Int32Array.from(labels, (_, i) => ((i % T) + 1 < T ? labels[i + 1]! : -100));
      const counted = targets.filter((target) => target !== -100).length;
      const identity = new Float32Array(V * V);
      for (let v = 0; v < V; v++) identity[v * V + v] = 1;

      for (const temperature of [1, 2, 5]) {
        for (const [tail, name] of [
          ['ignore', 'kl_topk'],
          ['renormalize', 'kl_topk_renorm'],
          ['bucket', 'kl_tail'],
        ] as const) {
          const graph = new Graph();
          const head = graph.constant('identity', [V, V], identity);
          const top = linearTopk(graph.input('teacher', [B, T, V]), head, { k: 8, temperatures: [temperature] });
          const { loss } = linearLoss(
            graph.input('student', [B, T, V]),
            head,
            graph.input('targets', [B, T], 'i32'),
            graph.input('token_scale', [1]),
            { ...base, objective: 'forward_kl', alpha: 1, temperature, tail, weightGradient: false },
            top,
          );
          graph.output('loss', loss);
          graph.output('gradient', loss.node.outputs[2]!);
          const arena = new Arena(device);
          const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
          const got = await program.run({ teacher, student, targets, token_scale: Float32Array.of(1 / counted) });
          const wanted = (await kd.readF32(`${name}.${temperature}`))[0]!;
          expect(Math.abs(got.get('loss')![0]! - wanted) / wanted, `${name}.${temperature}`).toBeLessThan(1e-4);
          expectClose(
            got.get('gradient')!,
            await kd.readF32(`grad_${name}.${temperature}`),
            1e-4,
            `grad_${name}.${temperature}`,
          );
          program.free();
          arena.free();
        }
      }
    });
  },
);
