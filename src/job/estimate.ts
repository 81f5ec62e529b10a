/**
 * What a run will cost, before it starts: bytes and work from the same plan that it will run, steps from the data, seconds from
 * what the adapter was measured to do. Reads rows and configs, no weights.
 */
import type { PreparedData } from '../data/prepare.ts';
import { countedPositions } from '../data/tokenize.ts';
import { countParameters } from '../models/model.ts';
import { totalSteps } from '../recipe/derived.ts';
import type { Recipe } from '../recipe/schema.ts';
import { planTraining, type TrainPlan } from '../train/train-plan.ts';
import type { RecipeContext } from './context.ts';
import type { Host } from './host.ts';
import { secondsOfStep, speedOf } from './foretell.ts';
import { rememberedSpeed } from './known-device.ts';
import type { Estimate } from './protocol.ts';
import { openTeacher } from './steps/device-model.ts';
import { rowsOf, type RunData } from './steps/rows.ts';
import { openStudent, type Student } from './steps/student.ts';
import { refuseTooLarge, refuseTooLargeByConfig } from './steps/too-large.ts';
import { entriesOf, objectiveOf, shapesOf } from './steps/train-student.ts';

/** Seconds around the steps: models read, kernels compiled, files written and opened again. */
const AROUND = { software: 40, hardware: 15 };

/** Where there is no GPU, the plan is made for what WebGPU promises everywhere. */
export async function estimateOf(context: RecipeContext, host: Host): Promise<Estimate> {
  const adapter = await host.gpu?.requestAdapter({ powerPreference: 'high-performance' });
  const limits = adapter?.limits ?? DEFAULT_LIMITS;
  await refuseTooLargeByConfig(context, limits);
  const { own, vocabulary } = await rowsOf(context);
  const student = await openStudent({ ...context, vocabulary });
  return expected({ ...context, vocabulary }, own, student, {
    limits,
    software: adapter ? isSoftware(adapter) : false,
    known: adapter ? await rememberedSpeed(host, adapter.info) : undefined,
  });
}

/** The same from what a run has opened already. */
export async function expected(
  context: RecipeContext,
  data: Pick<RunData, 'prepared' | 'train' | 'eval'>,
  student: Student,
  device: { limits: Parameters<typeof planTraining>[0]; software: boolean; known: Parameters<typeof speedOf>[1] },
): Promise<Estimate> {
  const { recipe, vocabulary } = context;
  const { prepared } = data;
  const distils = recipe.teacher.kind !== 'none' && recipe.distill.objective !== 'none';
  const teacher = distils ? await openTeacher(context) : undefined;
  refuseTooLarge(student.model, device.limits, 'student');
  if (teacher) refuseTooLarge(teacher, device.limits, 'teacher');
  const objective = objectiveOf(
    recipe,
    distils ? { k: entriesOf(recipe, student.model.options.vocab_size) } : undefined,
  );
  const plan = planTraining(device.limits, student.step, objective, shapesOf(data, recipe).train, recipe.training);

  const steps = totalSteps(data.train.count, recipe.training);
  const kind = device.software ? 'software' : 'hardware';
  const speed = speedOf(device.software, device.known);
  const { gradient_accumulation_steps } = recipe.training;
  const seconds_per_step = secondsOfStep(plan, data.train.lengthCounts, gradient_accumulation_steps, speed);
  const longest = Math.max(...plan.plans.map(({ shape }) => shape.rows * shape.length));
  const flops_per_token = plan.flops / longest;
  const teacherParameters = teacher && countParameters(teacher.parameters);
  const teacherSeconds = teacherParameters
    ? (2 * teacherParameters * prepared.report.tokens) / speed.flops_per_second
    : 0;
  const cache_bytes = distils ? cacheBytes(prepared, recipe) : 0;
  return {
    gpu_bytes: Math.max(plan.total_bytes, 4 * (teacherParameters ?? 0)),
    weights_bytes: plan.weights_bytes,
    optimizer_bytes: plan.optimizer_bytes,
    activations_bytes: plan.activations_bytes,
    cache_bytes,
    disk_bytes: cache_bytes + checkpointBytes(student, plan) + exportBytes(student, recipe),
    steps,
    seconds_per_step,
    seconds: teacherSeconds + steps * seconds_per_step + AROUND[kind],
    flops_per_token,
    tokens_per_second: data.train.tokens / (data.train.stepsPerEpoch * seconds_per_step),
    ...(teacherParameters !== undefined && { teacher_parameters: teacherParameters }),
    student_parameters: student.parameters,
    trainable_parameters: student.trainable,
    ...(vocabulary && { vocabulary: { kept: vocabulary.kept.length, of: vocabulary.of } }),
    train_rows: prepared.report.train_rows,
    eval_rows: prepared.report.eval_rows,
  };
}

/** What WebGPU promises everywhere. */
const DEFAULT_LIMITS = {
  maxStorageBufferBindingSize: 134217728,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupsPerDimension: 65535,
  maxStorageBuffersPerShaderStage: 8,
  minStorageBufferOffsetAlignment: 256,
  maxBufferSize: 268435456,
};

function isSoftware({ info }: GPUAdapter): boolean {
  const words = [info.vendor, info.architecture, info.device, info.description].join(' ');
  return /swiftshader|llvmpipe|software|warp|basic render/i.test(words);
}

/** Ids, logits and log Σ exp of every target position, in the plain coding. */
function cacheBytes({ train, eval: evaluated, masked }: PreparedData, { distill }: Recipe): number {
  const temperatures = new Set([1, distill.temperature]).size;
  const positions = [...train, ...evaluated].reduce((sum, row) => sum + countedPositions(row.labels, masked).length, 0);
  return 4 * positions * (1 + 2 * distill.k + temperatures);
}

/** Two checkpoints of weights and the optimiser's states, and the result. */
const checkpointBytes = (student: Student, { optimizer_bytes, gradients_bytes }: TrainPlan): number =>
  2 * (optimizer_bytes - gradients_bytes) + 3 * 4 * student.trainable;

function exportBytes(student: Student, recipe: Recipe): number {
  const bytesEach: Record<string, number> = { fp32: 4, fp16: 2, q8: 1.1, q4: 0.6, q4f16: 0.6 };
  const each = recipe.export.onnx.reduce((sum, dtype) => sum + bytesEach[dtype]!, 0);
  return Math.round(student.parameters * (each + (recipe.export.safetensors ? 4 : 0)));
}
