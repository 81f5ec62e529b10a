/**
 * A teacher as an ONNX file: whoever runs it gives whole logits of a row, and what a teacher in the engine says of every
 * place is found in them on the CPU, sums in float64.
 */
import { logSumExp } from '../engine/ops/head-rows.ts';
import { draw } from '../engine/ops/linear-sample/draw.ts';
import type { TeacherChoice, TeacherInputs, TeacherLogits } from './capture.ts';

export class OnnxTeacher {
  /** @param run f32 [tokens, vocab_size] of a text */
  constructor(
    private readonly run: (input_ids: readonly number[]) => Promise<Float32Array>,
    private readonly vocab_size: number,
    private readonly choice: TeacherChoice,
  ) {}

  /** Rows one by one, so that none is padded: a stranger's file may mask as it likes. Places of padding stay 0. */
  async logits({ rows, length, input_ids, segment_ids, points }: TeacherInputs): Promise<TeacherLogits> {
    const { k, temperatures, entries } = this.choice;
    const places = rows * length;
    const said = {
      ids: new Int32Array(places * k),
      logits: new Float32Array(places * k),
      log_z: new Float32Array(places * temperatures.length),
    };
    for (let row = 0; row < rows; row++) {
      const first = row * length;
      const padding = segment_ids.subarray(first, first + length).indexOf(0);
      const tokens = padding < 0 ? length : padding;
      if (tokens === 0) continue;
      const logits = await this.run(Array.from(input_ids.subarray(first, first + tokens)));
      for (let t = 0; t < tokens; t++) {
        const place = first + t;
        const all = logits.subarray(t * this.vocab_size, (t + 1) * this.vocab_size);
        const ids = said.ids.subarray(place * k, (place + 1) * k);
        const most = all.reduce((a, b) => Math.max(a, b));
        const log_z = temperatures.map((temperature) => logSumExp(all, most, temperature));
        said.log_z.set(log_z, place * temperatures.length);
        if (entries === 'sampling')
          ids.set(draw(all, points!.subarray(place * k, (place + 1) * k), log_z, temperatures));
        else largest(all, ids);
        ids.forEach((id, i) => (said.logits[place * k + i] = all[id]!));
      }
    }
    return said;
  }
}

/** The k largest, the largest first, of equals the lower id. */
function largest(all: Float32Array, ids: Int32Array): void {
  const k = ids.length;
  const values = new Float32Array(k);
  let filled = 0;
  for (let id = 0; id < all.length; id++) {
    const value = all[id]!;
    if (filled === k && value <= values[k - 1]!) continue;
    let at = filled < k ? filled++ : k - 1;
    for (; at > 0 && values[at - 1]! < value; at--) {
      values[at] = values[at - 1]!;
      ids[at] = ids[at - 1]!;
    }
    values[at] = value;
    ids[at] = id;
  }
}
