/** The loss of batches without learning from them, and the small things that a training step does alike. */
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Program, type Arena, type HostArray } from '../engine/run/program.ts';
import { isEncoder } from '../models/architectures/index.ts';
import { prepare, type MicroBatch, type PreparedBatch, type TeacherBatch } from './batch.ts';
import { evaluationStep, type BatchShape, type Objective, type StepModel, type SUMS } from './step-graphs.ts';

export interface EvalResult {
  readonly eval_loss: number;
  readonly eval_ce: number;
  readonly eval_kl: number;
  readonly eval_entropy: number;
  readonly eval_mean_token_accuracy: number;
}

export class Evaluator {
  private constructor(
    private readonly programs: ReadonlyMap<string, Program>,
    private readonly masked: boolean,
  ) {}

  /**
   * @param shapes all shapes that batches will have
   * @param tensors every weight by name
   */
  static async create(
    device: Device,
    model: StepModel,
    objective: Objective,
    shapes: readonly BatchShape[],
    tensors: ReadonlyMap<string, DeviceTensor>,
    arena: Arena,
    onProgress?: (done: number, of: number) => void,
  ): Promise<Evaluator> {
    const plans = shapes.map((shape) => ({
      shape,
      plan: plan(evaluationStep(model, objective, shape), device.limits),
    }));
    // programs are bound to the arena as it is
    for (const one of plans) arena.reserve(one.plan.arenas);
    const programs = new Map<string, Program>();
    for (const one of plans) {
      programs.set(keyOf(one.shape), await Program.create(device, one.plan, tensors, arena, onProgress));
    }
    return new Evaluator(programs, isEncoder(model.options));
  }

  /** DESIGN §6: the mean over batches of each batch's token mean, weighted by the batch's rows. */
  async evaluate(
    batches: readonly MicroBatch[],
    teacherOf: (batch: MicroBatch) => Promise<TeacherBatch | undefined>,
  ): Promise<EvalResult> {
    const total = { loss: 0, rows: 0, ce: 0, kl: 0, entropy: 0, correct: 0, batches: 0, counted: 0 };
    for (const batch of batches) {
      const one = prepare(batch, this.masked);
      if (one.counted === 0) continue;
      const program = this.programs.get(keyOf(batch));
      if (!program) throw new RangeError(`no program for an evaluation batch of ${batch.rows} x ${batch.length}`);
      const outputs = await program.run(inputsOf(one, await teacherOf(batch), one.counted));
      const sums = sumsOf(outputs.get('sums') as Float32Array);
      total.loss += batch.filled_rows * outputs.get('loss')![0]!;
      total.rows += batch.filled_rows;
      total.ce += sums.ce;
      total.kl += sums.kl;
      total.counted += one.counted;
      total.entropy += sums.entropy / one.counted;
      total.correct += sums.correct / one.counted;
      total.batches++;
    }
    return {
      eval_loss: total.loss / total.rows,
      eval_ce: total.ce / total.counted,
      eval_kl: total.kl / total.counted,
      eval_entropy: total.entropy / total.batches,
      eval_mean_token_accuracy: total.correct / total.batches,
    };
  }

  free(): void {
    for (const program of this.programs.values()) program.free();
  }
}

export function inputsOf(
  one: PreparedBatch,
  teacher: TeacherBatch | undefined,
  counted: number,
): Record<string, HostArray> {
  return {
    ...one.inputs,
    token_scale: Float32Array.of(1 / Math.max(1, counted)),
    ...(teacher?.weights && { teacher_weights: teacher.weights }),
    ...(teacher && { teacher_ids: teacher.ids, teacher_logits: teacher.logits, teacher_log_z: teacher.log_z }),
  };
}

export function sumsOf(sums: Float32Array): Record<(typeof SUMS)[number], number> {
  return { ce: sums[0]!, kl: sums[1]!, entropy: sums[2]!, correct: sums[3]! };
}

export function keyOf(shape: BatchShape): string {
  return `${shape.rows}x${shape.length}`;
}
