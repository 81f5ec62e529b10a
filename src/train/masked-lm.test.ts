/**
 * All weights of an encoder trained as a masked LM, against PyTorch: tiny random models of transformers (torch 2.15,
 * transformers 5.24, float32, one thread, dropout 0) and four steps of torch.optim.AdamW on given masks and labels (lr 1e-3,
 * eps 1e-6, weight decay 0.01 but for norms and biases, gradients clipped to 1). A fixture is one safetensors file: the
 * weights before under their hub names, `grad.*` of the first step, `final.*` after the last, `input.*` [steps, rows, tokens],
 * and config, losses and norms in its metadata. 2e-4 of a tensor's largest entry is what two float32 computations may
 * differ by; where positions are learned a key's bias has no gradient but rounding (docs/design.md).
 */
import { describe, expect, it } from 'vitest';
import { expectClose, testDevice } from '../engine/testing.ts';
import { readAnyArchitecture } from '../models/architectures/index.ts';
import { encoderFixture } from '../models/architectures/tiny-encoder.testing.ts';
import { baseParameters } from '../models/model.ts';
import { loadParameters } from '../models/on-device.ts';
import type { MicroBatch } from './batch.ts';
import { CROSS_ENTROPY } from './step-graphs.ts';
import { Trainer } from './trainer.ts';

const TOLERANCE = 2e-4;
const KEY_BIAS = /\.(?:key|k_lin)\.bias$/;

describe.each(['bert', 'distilbert'] as const)('%s trained as a masked LM', (name) => {
  it.each([false, true])('gives PyTorch’s losses, gradients and weights; layers computed again: %s', async (again) => {
    const file = await encoderFixture(name);
    const options = readAnyArchitecture(JSON.parse(file.metadata.config!), 'config.json', new Set(file.tensors.keys()));
    const model = { options, weights: file, parameters: baseParameters(options) };
    const [steps, rows, length] = file.tensors.get('input.input_ids')!.shape as [number, number, number];
    const input_ids = (await file.read('input.input_ids')) as Int32Array;
    const labels = (await file.read('input.labels')) as Int32Array;
    const segment_ids = (await file.read('input.attention_mask')) as Int32Array;
    const size = rows * length;
    const batches = Array.from({ length: steps }, (_, s): MicroBatch => {
      const of = (data: Int32Array): Int32Array => data.slice(s * size, (s + 1) * size);
      const position_ids = Int32Array.from({ length: size }, (_, i) => i % length);
      return {
        rows,
        length,
        filled_rows: rows,
        input_ids: of(input_ids),
        labels: of(labels),
        position_ids,
        segment_ids,
      };
    });

    const device = await testDevice();
    const trainer = await Trainer.create(
      {
        device,
        model: { options, adapter: null, trainable: () => true },
        objective: CROSS_ENTROPY,
        optimizer: { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-6, weight_decay: 0.01, max_grad_norm: 1 },
        schedule: { lr_scheduler_type: 'constant', learning_rate: 1e-3, warmup_steps: 0, total_steps: steps },
        seed: 1,
        trainShapes: [{ rows, length }],
        evalShapes: [
          { rows, length },
          { rows: 1, length: size },
        ],
        gradient_checkpointing: again,
      },
      (place) => loadParameters(device, model, place),
    );
    const wanted = (key: string): number[] => JSON.parse(file.metadata[key]!) as number[];
    const within = (got: number, want: number, what: string): void =>
      expect(Math.abs(got - want) / want, what).toBeLessThan(TOLERANCE);
    const { eval_loss } = await trainer.evaluate(batches.slice(0, 1), async () => undefined);
    within(eval_loss, wanted('losses')[0]!, 'loss of evaluation');
    const packed: MicroBatch = {
      ...batches[0]!,
      rows: 1,
      length: size,
      filled_rows: 1,
      segment_ids: segment_ids.map((one, i) => one * (1 + Math.floor(i / length))),
    };
    const together = await trainer.evaluate([packed], async () => undefined);
    within(together.eval_loss, wanted('losses')[0]!, 'loss of the rows packed into one');
    for (const [s, batch] of batches.entries()) {
      const { loss, grad_norm } = await trainer.submitStep([batch], []);
      within(loss, wanted('losses')[s]!, `loss of step ${s + 1}`);
      within(grad_norm, wanted('norms')[s]!, `norm of step ${s + 1}`);
      if (s > 0) continue;
      expect(trainer.trainPlan.trainables.map((one) => one.name).sort()).toEqual([...model.parameters.keys()].sort());
      for (const parameter of model.parameters.keys()) {
        const got = await device.readF32(trainer.deviceTensors.get(`gradient.${parameter}`)!);
        const want = await file.readF32(`grad.${parameter}`);
        if (KEY_BIAS.test(parameter)) expect(Math.max(...got.map(Math.abs)), parameter).toBeLessThan(1e-6);
        else expectClose(got, want, TOLERANCE, `grad.${parameter}`);
      }
    }
    for (const [parameter, data] of await trainer.trained()) {
      expectClose(data, await file.readF32(`final.${parameter}`), TOLERANCE, parameter);
    }
    trainer.free();
  });
});
