/** A micro-batch as the trainer takes it, and its inputs for the device. `data/` makes them; padding is segment 0. */

export interface MicroBatch {
  readonly rows: number;
  readonly length: number;
  /** All [rows · length], row-major. */
  readonly input_ids: Int32Array;
  /** Not shifted; -100 does not count. */
  readonly labels: Int32Array;
  readonly position_ids: Int32Array;
  /** 0 is padding; packed documents have numbers of their own. */
  readonly segment_ids: Int32Array;
  /** Rows that hold something: a last batch may be short. */
  readonly filled_rows: number;
}

/** The teacher's cached logits at every place of a micro-batch; anything where nothing counts. */
export interface TeacherBatch {
  /** i32 [rows, length, k] */
  readonly ids: Int32Array;
  /** f32 [rows, length, k] */
  readonly logits: Float32Array;
  /** log Σ exp(z / T) over the whole vocabulary at the objective's temperature, f32 [rows, length] */
  readonly log_z: Float32Array;
  /** f32 [rows, length, k], where they were drawn: how often each counts */
  readonly weights?: Float32Array;
}

export interface PreparedBatch {
  readonly batch: MicroBatch;
  readonly counted: number;
  readonly attended: number;
  readonly inputs: {
    input_ids: Int32Array;
    position_ids: Int32Array;
    segments: Int32Array;
    /** All 0: a row is one text. */
    token_type_ids: Int32Array;
    targets: Int32Array;
    weights: Float32Array;
  };
}

/**
 * What a place's logits are compared with: the next place's label, unless that belongs to another document or row.
 * @param masked the model guesses the token at the place itself (masked LM)
 */
export function targetsOf(batch: MicroBatch, masked: boolean): Int32Array {
  const { rows, length, labels, segment_ids } = batch;
  if (masked) return labels;
  const targets = new Int32Array(rows * length).fill(-100);
  for (let row = 0; row < rows; row++) {
    for (let t = 0; t + 1 < length; t++) {
      const i = row * length + t;
      if (segment_ids[i] !== 0 && segment_ids[i] === segment_ids[i + 1]) targets[i] = labels[i + 1]!;
    }
  }
  return targets;
}

export function prepare(batch: MicroBatch, masked: boolean): PreparedBatch {
  const targets = targetsOf(batch, masked);
  const weights = new Float32Array(targets.length);
  let counted = 0;
  let attended = 0;
  targets.forEach((target, i) => {
    weights[i] = target !== -100 ? 1 : 0;
    counted += weights[i]!;
    if (batch.segment_ids[i] !== 0) attended++;
  });
  return {
    batch,
    counted,
    attended,
    inputs: {
      input_ids: batch.input_ids,
      position_ids: batch.position_ids,
      segments: batch.segment_ids,
      token_type_ids: new Int32Array(targets.length),
      targets,
      weights,
    },
  };
}
