/**
 * A teacher that runs in the engine: a forward pass over batches of rows, and for every place the k largest logits, or k
 * drawn from all of them, with log Σ exp(z / T) over the whole vocabulary at each declared temperature. `[tokens × vocabulary]` never exists.
 */
import { Graph } from '../engine/graph/graph.ts';
import type { Value } from '../engine/graph/types.ts';
import { linearSample, linearTopk } from '../engine/ops/index.ts';
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program } from '../engine/run/program.ts';
import type { CacheHeader } from '../formats/logit-cache.ts';
import type { ModelOptions } from '../models/architectures/index.ts';
import type { DecoderAdapter } from '../models/decoder.ts';
import { languageModel } from '../models/language-model.ts';

export interface TeacherInputs {
  readonly rows: number;
  readonly length: number;
  /** All i32 [rows, length]; padding is segment 0. */
  readonly input_ids: Int32Array;
  readonly position_ids: Int32Array;
  readonly segment_ids: Int32Array;
  /** f32 [rows, length, k], of a teacher whose entries are drawn: where (points.ts) */
  readonly points?: Float32Array;
}

/** What is asked of a teacher at every place. */
export interface TeacherChoice {
  /** As a cache has them: 'topk' where left out. */
  readonly entries?: CacheHeader['entries'];
  readonly k: number;
  readonly temperatures: readonly number[];
}

export interface TeacherLogits {
  /** i32 [rows, length, k], largest logit first; of draws rising */
  readonly ids: Int32Array;
  /** f32 [rows, length, k] */
  readonly logits: Float32Array;
  /** f32 [rows, length, temperatures] */
  readonly log_z: Float32Array;
}

export class EngineTeacher {
  private readonly arena: Arena;
  private readonly programs = new Map<string, Program>();

  constructor(
    private readonly device: Device,
    private readonly options: ModelOptions,
    private readonly tensors: ReadonlyMap<string, DeviceTensor>,
    private readonly choice: TeacherChoice & { readonly adapter?: DecoderAdapter },
  ) {
    this.arena = new Arena(device);
  }

  async logits(batch: TeacherInputs): Promise<TeacherLogits> {
    const program = await this.programFor(batch.rows, batch.length);
    const outputs = await program.run({
      input_ids: batch.input_ids,
      position_ids: batch.position_ids,
      segments: batch.segment_ids,
      token_type_ids: new Int32Array(batch.input_ids.length), // a row is one text
      ...(batch.points && { points: batch.points }),
    });
    return {
      ids: outputs.get('ids') as Int32Array,
      logits: outputs.get('logits') as Float32Array,
      log_z: outputs.get('log_z') as Float32Array,
    };
  }

  free(): void {
    for (const program of this.programs.values()) program.free();
    this.arena.free();
  }

  private async programFor(rows: number, length: number): Promise<Program> {
    const key = `${rows}x${length}`;
    let program = this.programs.get(key);
    if (!program) {
      program = await Program.create(
        this.device,
        plan(this.graph(rows, length), this.device.limits),
        this.tensors,
        this.arena,
      );
      this.programs.set(key, program);
    }
    await program.rebind();
    return program;
  }

  private graph(rows: number, length: number): Graph {
    const graph = new Graph();
    const ids = (name: string): Value => graph.input(name, [rows, length], 'i32');
    const { k, temperatures, entries, adapter } = this.choice;
    const { head } = languageModel(graph, this.options, ids, { adapter });
    if (!head) throw new RangeError('a model without a head has no logits');
    const { hidden, weight, bias, softcap } = head;
    const said =
      entries === 'sampling'
        ? linearSample(hidden, weight, graph.input('points', [rows, length, k]), { temperatures, softcap }, bias)
        : linearTopk(hidden, weight, { k, temperatures, softcap }, bias);
    graph.output('ids', said.ids);
    graph.output('logits', said.logits);
    graph.output('log_z', said.log_z);
    return graph;
  }
}
