import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MemorySource } from '../../../formats/byte-source.ts';
import { openSafetensors } from '../../../formats/safetensors.ts';
import { checkGradient, checkKernel, expectClose, floats, integers, testDevice, type OpCase } from '../../testing.ts';
import { Graph } from '../../graph/graph.ts';
import { plan } from '../../plan/plan.ts';
import { Arena, Program } from '../../run/program.ts';
import { linearLoss, type LinearLossAttributes } from './linear-loss.ts';
import { linearTopk } from '../linear-topk/linear-topk.ts';

const base: LinearLossAttributes = {
  objective: 'none',
  temperature: 1,
  alpha: 0,
  tail: 'bucket',
  label_smoothing: 0,
  hiddenGradient: true,
  weightGradient: true,
};

/** Rows with targets, some not counted; a teacher whose support does not hold all of the mass. */
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
    ],
    build: (hidden, weight, target, scale, teacherIds, teacherLogits, logZ) => {
      const { loss, stats } = linearLoss(
        hidden!,
        weight!,
        target!,
        scale!,
        all,
        teacherIds && { ids: teacherIds, logits: teacherLogits!, log_z: logZ! },
      );
      return [loss, stats, ...loss.node.outputs.slice(2)];
    },
    gradientOf: [0, 1],
    through: [0],
    // gradients are differences of probabilities: a few f32 roundings of numbers below 1
    tolerance: 1e-5,
  };
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
