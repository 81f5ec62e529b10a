import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { nodeFile, nodeFolder } from '../cli/node-files.ts';
import { expectClose, testDevice } from '../engine/testing.ts';
import { readAdapter } from '../formats/peft.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { openAnyModel } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import type { MicroBatch } from './batch.ts';
import type { Optim } from './optimizers.ts';
import { CROSS_ENTROPY } from './step-graphs.ts';
import { Trainer, type StepResult, type TrainerSetup } from './trainer.ts';

const references = ['llama', 'bert', 'distilbert'].map((name) => ({ name, folder: `../shared/reference/${name}` }));

describe.skipIf(!existsSync(references[0]!.folder)).each(references)(
  'training $name against PyTorch (trajectory.json; skipped where ../shared is absent)',
  ({ folder }) => {
    const hyper = (): { warmup_steps: number; total_steps: number; learning_rate: number; weight_decay: number } =>
      JSON.parse(readFileSync(`${folder}/trajectory.json`, 'utf8')).hyperparameters;

    async function setUp(optim?: Optim, fp16?: boolean): Promise<{ trainer: Trainer; batches: MicroBatch[] }> {
      const device = await testDevice();
      const model = await openAnyModel(nodeFolder(folder));
      const adapter = await readAdapter(nodeFolder(`${folder}/lora`));
      const file = await openSafetensors(await nodeFile(`${folder}/trajectory_inputs.safetensors`));
      const [rows, length] = file.tensors.get('input_ids.0')!.shape as [number, number];
      const ids = async (name: string): Promise<Int32Array> =>
        Int32Array.from((await file.read(name)) as BigInt64Array, Number);
      const batches: MicroBatch[] = [];
      for (let i = 0; i < 16; i++) {
        batches.push({
          rows,
          length,
          filled_rows: rows,
          input_ids: await ids(`input_ids.${i}`),
          labels: await ids(`labels.${i}`),
          position_ids: Int32Array.from({ length: rows * length }, (_, j) => j % length),
          segment_ids: new Int32Array(rows * length).fill(1),
        });
      }
      const { warmup_steps, total_steps, learning_rate, weight_decay } = hyper();
      const setup: TrainerSetup = {
        device,
        model: {
          options: model.options,
          adapter: { settings: adapter.config, trainable: true },
          trainable: () => false,
        },
        objective: CROSS_ENTROPY,
        optimizer: { optim, adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay, max_grad_norm: 1 },
        schedule: { lr_scheduler_type: 'linear', learning_rate, warmup_steps, total_steps },
        seed: 1,
        trainShapes: [{ rows, length }],
        evalShapes: [],
        fp16,
      };
      const trainer = await Trainer.create(setup, async (place) => {
        const tensors = await loadParameters(device, model, place);
        for (const [name, { data }] of adapter.tensors) device.write(place(name, [])!, data);
        return tensors;
      });
      return { trainer, batches };
    }

    const step = (trainer: Trainer, batches: MicroBatch[], s: number): Promise<StepResult> =>
      trainer.submitStep([batches[2 * (s % 8)]!, batches[2 * (s % 8) + 1]!], []);

    it(
      'gives the losses (1e-4), gradient norms, learning rates and adapter (1e-3) of 16 steps',
      { timeout: 300_000 },
      async () => {
        const { trainer, batches } = await setUp();
        const { steps } = JSON.parse(readFileSync(`${folder}/trajectory.json`, 'utf8')) as {
          steps: { loss: number; grad_norm: number; learning_rate: number }[];
        };
        for (const [s, wanted] of steps.entries()) {
          const got = await step(trainer, batches, s);
          expect(Math.abs(got.loss - wanted.loss) / wanted.loss, `loss of step ${s + 1}`).toBeLessThan(1e-4);
          expect(Math.abs(got.grad_norm - wanted.grad_norm) / wanted.grad_norm, `norm of step ${s + 1}`).toBeLessThan(
            1e-3,
          );
          expect(got.learning_rate).toBeCloseTo(wanted.learning_rate, 10);
        }
        const final = await openSafetensors(await nodeFile(`${folder}/lora_final.safetensors`));
        for (const [name, data] of await trainer.trained()) {
          expectClose(data, await final.readF32(`base_model.model.${name}`), 1e-3, name);
        }
        trainer.free();
      },
    );

    // what is rounded to 2⁻¹¹ moves Adam's first steps by as much, and losses by less
    it('gives the same losses within 1e-3 with activations in 16 bits', { timeout: 300_000 }, async () => {
      const { trainer, batches } = await setUp('adamw_torch', true);
      const { steps } = JSON.parse(readFileSync(`${folder}/trajectory.json`, 'utf8')) as { steps: { loss: number }[] };
      const losses = [];
      for (let s = 0; s < steps.length; s++) losses.push((await step(trainer, batches, s)).loss);
      trainer.free();
      expect(losses[0]).toBeCloseTo(steps[0]!.loss, 4);
      losses.forEach((loss, s) => expect(Math.abs(loss / steps[s]!.loss - 1), `step ${s + 1}`).toBeLessThan(1e-3));
    });

    it.each(['adamw_torch', 'sgd', 'sgd_momentum', 'lion_32bit', 'adafactor', 'adamw_8bit'] as const)(
      'goes on from a checkpoint with the same bits: %s',
      { timeout: 300_000 },
      async (optim) => {
        const { trainer, batches } = await setUp(optim);
        for (let s = 0; s < 3; s++) await step(trainer, batches, s);
        const kept = await trainer.state();
        for (let s = 3; s < 6; s++) await step(trainer, batches, s);
        const undisturbed = await trainer.trained();
        trainer.free();

        const second = (await setUp(optim)).trainer;
        second.restore(kept);
        for (let s = second.step; s < 6; s++) await step(second, batches, s);
        const resumed = await second.trained();
        second.free();
        for (const [name, data] of undisturbed) expect(resumed.get(name), name).toEqual(data);
      },
    );
  },
);
