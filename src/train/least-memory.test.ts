/**
 * A step takes little more than it must: weights, the optimiser's states, the gradients where they are kept, and what the backward
 * pass has to find of the forward pass with the recomputation that is chosen. All weights in f32, a batch a step, keep none unless
 * told to. Planned, not run: SmolLM2-135M and a small GPT at several shapes.
 */
import { describe, expect, it } from 'vitest';
import { testDevice } from '../engine/testing.ts';
import { GPT, SMOLLM2, SMOLLM2_SIXTH } from '../job/bench/shapes.ts';
import { CROSS_ENTROPY, type StepModel } from './step-graphs.ts';
import { planTraining } from './train-plan.ts';

const KD = { ...CROSS_ENTROPY, objective: 'forward_kl', temperature: 2, alpha: 0.5, k: 32 } as const;
const LINEAR = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

const withAdapter = (options: StepModel['options'], target_modules: readonly string[]): StepModel => ({
  options,
  adapter: {
    settings: { r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: [...target_modules], use_rslora: false },
    trainable: true,
  },
  trainable: () => false,
});
const whole = (options: StepModel['options']): StepModel => ({ options, adapter: null, trainable: () => true });

const MODELS: readonly (readonly [name: string, model: StepModel, shapes: readonly (readonly [number, number])[]])[] = [
  [
    'SmolLM2-135M, LoRA on q and v',
    withAdapter(SMOLLM2, ['q_proj', 'v_proj']),
    [
      [1, 512],
      [4, 1024],
    ],
  ],
  ['SmolLM2-135M, LoRA on all linear layers', withAdapter(SMOLLM2, LINEAR), [[4, 1024]]],
  [
    'SmolLM2-135M, all weights',
    whole(SMOLLM2),
    [
      [1, 512],
      [8, 128],
    ],
  ],
  [
    'five of its layers, LoRA on all',
    withAdapter(SMOLLM2_SIXTH, LINEAR),
    [
      [1, 512],
      [4, 1024],
      [8, 128],
    ],
  ],
  ['a GPT-2 of 4 layers × 128, all weights', whole(GPT), [[8, 128]]],
];

describe('the bytes of a step are at most 1.25 of the least', () => {
  for (const [name, model, shapes] of MODELS)
    for (const [rows, length] of shapes)
      it(`${name}, ${rows} × ${length}`, { timeout: 120_000 }, async () => {
        // a device that binds and holds all of it: windows are another matter
        const limits = {
          ...(await testDevice()).limits,
          maxStorageBufferBindingSize: 2 ** 31 - 4,
          maxBufferSize: 2 ** 34,
        };
        for (const gradient_checkpointing of [false, true])
          for (const fp16 of [false, true])
            for (const optimizer_in_bwd of [false, true, null]) {
              const choices = { gradient_checkpointing, fp16, optimizer_in_bwd, gradient_accumulation_steps: 1 };
              const planned = planTraining(limits, model, KD, [{ rows, length }], { ...choices, max_grad_norm: 1 });
              expect(planned.total_bytes / planned.least_bytes, JSON.stringify(choices)).toBeLessThanOrEqual(1.25);
              expect(planned.total_bytes, JSON.stringify(choices)).toBeGreaterThan(planned.least_bytes);
              if (optimizer_in_bwd === null && !fp16 && !model.adapter)
                expect(planned.gradients_bytes, 'by default they are not even counted').toBe(0);
            }
      });
});
