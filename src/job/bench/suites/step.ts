/**
 * A whole LoRA step of SmolLM2-135M's shape, 512 tokens, or of a sixth of it where there is no GPU, by the trainer itself:
 * against the rate of the step's own matmuls, JavaScript's share of it, what distilling from a cache adds, what weights held as
 * int8 and activations in 16 bits cost and save, and what was planned (bytes, time) against what it took.
 */
import { matmulRate as rateOf, measureSpeed, SMALL } from '../../../engine/tune/speed.ts';
import type { Bench } from '../suite.ts';
import type { DecoderOptions } from '../../../models/decoder.ts';
import { baseParameters, countParameters } from '../../../models/model.ts';
import type { TeacherBatch } from '../../../train/batch.ts';
import { CROSS_ENTROPY as CE, type Objective } from '../../../train/step-graphs.ts';
import type { Trainer } from '../../../train/trainer.ts';
import { secondsOfStep } from '../../foretell.ts';
import { GPT, SMOLLM2, SMOLLM2_SIXTH } from '../shapes.ts';
import { batchOf as batch, benchTrainer, stepsInTurn, stepsOf } from '../training.ts';

const TOKENS = 512;
const K = 32;
const LORA = { r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: ['q_proj', 'v_proj'], use_rslora: false };
const KD = { ...CE, objective: 'forward_kl', temperature: 2, alpha: 0.5, k: K } as const;

export async function stepSuite(bench: Bench): Promise<void> {
  const { device, summary, add, tell, peak_gflops } = bench;
  const { software } = device.adapter;
  const options = software ? SMOLLM2_SIXTH : SMOLLM2;
  const of = software ? `SmolLM2-135M's layers, 5 of 30, vocabulary 8192` : 'SmolLM2-135M shape';
  const N = countParameters(baseParameters(options));
  const { num_hidden_layers: layers, num_attention_heads: heads, head_dim } = options;
  // forward 2N and activations' gradients 2N a token; causal attention 2 T d a token and layer forward, 2.5 times that backward
  const flops = TOKENS * (4 * N + 7 * layers * TOKENS * heads * head_dim);

  const trainerOf = (of: DecoderOptions, objective: Objective, fp16 = false): Promise<Trainer> =>
    benchTrainer(
      device,
      { options: of, adapter: { settings: LORA, trainable: true }, trainable: () => false },
      objective,
      { rows: 1, length: TOKENS },
      fp16,
    );
  const words = batch(options, { rows: 1, length: TOKENS });

  const before = device.liveBytes;
  const ce = await trainerOf(options, CE);
  const measured = device.liveBytes - before;
  const { weights_bytes, activations_bytes } = ce.trainPlan;
  summary.planned_over_measured_bytes = ce.trainPlan.total_bytes / measured;
  summary.planned_over_least_bytes = ce.trainPlan.total_bytes / ce.trainPlan.least_bytes;
  const speed = await measureSpeed(device, await rateOf(device, SMALL));
  const foretold = secondsOfStep(ce.trainPlan, new Map([[TOKENS, 1]]), 1, speed);
  const plainSteps = { trainer: ce, batch: words, tell: (step: string) => tell(`step, cross-entropy: ${step}`) };
  const plain = await stepsOf(plainSteps);
  /** A step of another kind beside the plain one, in turn: both trainers are held for that long. */
  const beside = async (
    what: string,
    trainer: Trainer,
    teacher?: TeacherBatch,
  ): Promise<{ ms: number; over_plain: number }> => {
    const steps = { trainer, batch: words, teacher, tell: (step: string) => tell(`step, ${what}: ${step}`) };
    const [other, same] = await stepsInTurn([steps, plainSteps]);
    return { ms: other!.ms, over_plain: other!.ms / same!.ms };
  };
  summary.predicted_over_measured_step = (1000 * foretold) / plain.ms;
  tell('step: each kernel alone');
  const lines = await ce.profile(words, undefined, 20);
  const matmuls = lines.filter(({ label }) => label.startsWith('matmul'));
  const total = (of: (line: (typeof lines)[number]) => number): number =>
    matmuls.reduce((sum, line) => sum + line.count * of(line), 0);
  const matmulRate = total((line) => line.flops) / total((line) => line.ms) / 1e6;
  const gflops = flops / plain.ms / 1e6;
  summary.step_fraction_of_matmul = gflops / matmulRate;
  summary.javascript_share = plain.javascript_ms / plain.ms;
  add({
    suite: 'step',
    name: "the step's own matmuls",
    ms: total((line) => line.ms),
    gflops: matmulRate,
    fraction_of_peak: matmulRate / peak_gflops,
  });
  add({
    suite: 'step',
    name: `LoRA step, ${of}, ${TOKENS} tokens`,
    ms: plain.ms,
    gflops,
    fraction_of_peak: gflops / peak_gflops,
    bytes: measured,
    tokens_per_second: (1000 * TOKENS) / plain.ms,
  });
  for (const { label, count, ms } of lines.sort((a, b) => b.count * b.ms - a.count * a.ms).slice(0, 12))
    add({ suite: 'step', name: `  ${count} × ${label}`, ms: count * ms });

  const kd = await trainerOf(options, KD);
  const taught = await beside('distilling', kd, teacherOf(options));
  kd.free();
  summary.kd_over_ce = taught.over_plain;
  add({
    suite: 'step',
    name: `the same, distilling from a cache, k ${K}`,
    ms: taught.ms,
    gflops: flops / taught.ms / 1e6,
    tokens_per_second: (1000 * TOKENS) / taught.ms,
  });

  const held = new Map(
    [...baseParameters(options)].flatMap(([name, shape]) =>
      shape.length === 2 ? [[name, 'int8' as const] as const] : [],
    ),
  );
  const packed = await trainerOf({ ...options, held }, CE);
  const eight = await beside('int8 weights', packed);
  summary.int8_step_over_f32 = 1 / eight.over_plain;
  summary.int8_weight_bytes_over_f32 = packed.trainPlan.weights_bytes / weights_bytes;
  packed.free();
  add({
    suite: 'step',
    name: 'the same, cross entropy, all frozen matrices int8',
    ms: eight.ms,
    gflops: flops / eight.ms / 1e6,
    bytes: packed.trainPlan.weights_bytes,
    tokens_per_second: (1000 * TOKENS) / eight.ms,
  });

  const halved = await trainerOf(options, CE, true);
  const half = await beside('fp16', halved);
  summary.fp16_step_over_f32 = 1 / half.over_plain;
  summary.fp16_activation_bytes_over_f32 = halved.trainPlan.activations_bytes / activations_bytes;
  const { activations_bytes: bytes } = halved.trainPlan;
  halved.free();
  ce.free();
  add({
    suite: 'step',
    name: 'the same, cross entropy, activations in 16 bits (fp16)',
    ms: half.ms,
    gflops: flops / half.ms / 1e6,
    bytes,
    tokens_per_second: (1000 * TOKENS) / half.ms,
  });

  await gptStep(bench);
}

/** All weights of a small GPT-2, as people train one from nothing in a page. */
async function gptStep({ device, summary, add, tell }: Bench): Promise<void> {
  const shape = { rows: 8, length: 128 };
  const trainer = await benchTrainer(device, { options: GPT, adapter: null, trainable: () => true }, CE, shape);
  const { ms } = await stepsOf({ trainer, batch: batch(GPT, shape), tell: (step) => tell(`step, small GPT: ${step}`) });
  trainer.free();
  summary.gpt_tokens_per_second = (1000 * shape.rows * shape.length) / ms;
  add({
    suite: 'step',
    name: 'full step, GPT-2 of 4 layers × 128, vocabulary 2000, 8 × 128 tokens',
    ms,
    tokens_per_second: summary.gpt_tokens_per_second,
  });
}

/** A cached teacher's K words a position, made up. */
function teacherOf({ vocab_size }: DecoderOptions): TeacherBatch {
  return {
    ids: Int32Array.from({ length: TOKENS * K }, (_, i) => (Math.floor(i / K) * 31 + (i % K) * 1009) % vocab_size),
    logits: Float32Array.from({ length: TOKENS * K }, (_, i) => 8 - 0.2 * (i % K)),
    log_z: new Float32Array(TOKENS).fill(11),
  };
}
