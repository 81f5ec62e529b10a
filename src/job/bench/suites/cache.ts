/**
 * What a logit cache costs and loses, on text that the teacher writes itself: bytes a token, and how far the gradient of
 * forward KL made from the cache is from the one made from all logits, position by position. The student is the teacher
 * without its last layer. What draws are wrong by has another sign at the next position, what a bucket is wrong by has not:
 * the last figure says how far the sum over all positions is from right.
 */
import { distinct } from '../../../engine/ops/linear-sample/draw.ts';
import { createCache } from '../../../formats/logit-cache.ts';
import { MemoryKeep } from '../../../formats/keep.ts';
import { Generator } from '../../../models/generate.ts';
import { sequenceLogits } from '../../../models/logits.ts';
import { openModel } from '../../../models/model.ts';
import { loadParameters } from '../../../models/on-device.ts';
import { EngineTeacher } from '../../../teacher/capture.ts';
import { drawPoints } from '../../../teacher/points.ts';
import type { Bench } from '../suite.ts';

const ROWS = 4;
const LENGTH = 48;
const TEMPERATURE = 2;

export async function cacheSuite({ device, model, add }: Bench): Promise<void> {
  const teacher = await openModel(await model());
  const { options } = teacher;
  const V = options.vocab_size;
  const tensors = await loadParameters(device, teacher);
  const generator = await Generator.create(device, options, tensors, { batch: ROWS, prompt: 1, capacity: LENGTH });
  const starts = Array.from({ length: ROWS }, (_, row) => [(row * 977) % V]);
  const answers = await generator.generate(starts, {
    max_new_tokens: LENGTH - 1,
    temperature: 1,
    top_p: 1,
    seed: 1,
    eos_token_ids: [],
  });
  generator.free();
  const rows = starts.map((start, row) => [...start, ...answers[row]!]);
  const whole = await sequenceLogits(device, options, tensors, rows);
  const smaller = { ...options, num_hidden_layers: Math.max(1, options.num_hidden_layers - 1) };
  const student = await sequenceLogits(device, smaller, tensors, rows);

  const temperatures = [1, TEMPERATURE];
  const choices = (['topk', 'sampling'] as const).flatMap((entries) =>
    [8, 16, 32, 64].filter((k) => k < V).map((k) => ({ entries, k })),
  );
  for (const { entries, k } of choices) {
    const points = new Float32Array(entries === 'sampling' ? ROWS * LENGTH * k : 0);
    for (let place = 0; place * k < points.length; place++) {
      drawPoints(1, Math.floor(place / LENGTH), place % LENGTH, points.subarray(place * k, (place + 1) * k));
    }
    const source = new EngineTeacher(device, options, tensors, { entries, k, temperatures });
    const start = performance.now();
    const said = await source.logits({
      rows: ROWS,
      length: LENGTH,
      input_ids: Int32Array.from(rows.flat()),
      position_ids: Int32Array.from({ length: ROWS * LENGTH }, (_, i) => i % LENGTH),
      segment_ids: new Int32Array(ROWS * LENGTH).fill(1),
      ...(entries === 'sampling' && { points }),
    });
    const ms = performance.now() - start;
    source.free();
    const cache = await createCache(new MemoryKeep(), {
      teacher: { identity: teacher.name, hash: '0' },
      tokenizer_hash: '0',
      dataset_hash: '0',
      vocab_size: V,
      k,
      temperatures,
      entries,
      dtype: 'f32',
    });
    const part = <A extends Int32Array | Float32Array>(all: A, row: number, each: number): A =>
      all.slice(row * LENGTH * each, (row + 1) * LENGTH * each) as A;
    await cache.append(
      rows.map((_, row) => ({
        positions: Int32Array.from({ length: LENGTH }, (_, t) => t),
        ids: part(said.ids, row, k),
        logits: part(said.logits, row, k),
        log_z: part(said.log_z, row, 2),
      })),
    );
    let difference = 0;
    let size = 0;
    const summed = { difference: new Float64Array(V), gradient: new Float64Array(V) };
    for (let row = 0; row < ROWS; row++) {
      const { ids, logits, log_z } = await cache.read(row);
      for (let t = 0; t < LENGTH; t++) {
        const q = softmax(student[row]!.logits.subarray(t * V, (t + 1) * V));
        const p = softmax(whole[row]!.logits.subarray(t * V, (t + 1) * V));
        const at = [ids.subarray(t * k, (t + 1) * k), logits.subarray(t * k, (t + 1) * k)] as const;
        const log_zs = log_z.subarray(2 * t, 2 * t + 2);
        const kept = entries === 'topk' ? bucketed(q, ...at, log_zs[1]!) : drawn(V, ...at, log_zs, temperatures);
        const all = kept.reduce((a, b) => a + b, 0);
        q.forEach((share, v) => {
          const wrong = all * share - kept[v]! - (share - p[v]!);
          difference += wrong ** 2;
          size += (share - p[v]!) ** 2;
          summed.difference[v]! += wrong;
          summed.gradient[v]! += share - p[v]!;
        });
      }
    }
    add({
      suite: 'cache',
      name: `k ${k}, T ${TEMPERATURE}, ${entries === 'topk' ? 'tail in one bucket' : 'drawn'}`,
      ms,
      bytes: cache.bytes,
      bytes_per_token: cache.bytes / cache.positions,
      gradient_error: Math.sqrt(difference / size),
      summed_gradient_error: length(summed.difference) / length(summed.gradient),
      tokens_per_second: (1000 * ROWS * LENGTH) / ms,
    });
  }
  for (const tensor of tensors.values()) device.freeTensor(tensor);
}

function softmax(logits: Float32Array): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / TEMPERATURE));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** The teacher that the cached loss pulls towards: its entries, and its tail's mass shared out as the student shares its own. */
function bucketed(q: Float64Array, ids: Int32Array, logits: Float32Array, log_z: number): Float64Array {
  const p = Array.from(logits, (logit) => Math.exp(logit / TEMPERATURE - log_z));
  const tail = Math.max(0, 1 - p.reduce((a, b) => a + b, 0));
  const inside = new Set(ids);
  const outside = q.reduce((sum, share, v) => (inside.has(v) ? sum : sum + share), 0);
  const target = q.map((share) => (outside > 0 ? (share * tail) / outside : 0));
  ids.forEach((id, i) => (target[id] = p[i]!));
  return target;
}

/** ‖values‖; a vocabulary is more arguments than Math.hypot takes. */
const length = (values: Float64Array): number => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));

/** The same of draws: of each drawn token its estimate of p, whose sum need not be 1. */
function drawn(
  V: number,
  ids: Int32Array,
  logits: Float32Array,
  log_z: Float32Array,
  temperatures: readonly number[],
): Float64Array {
  const target = new Float64Array(V);
  for (const [i, weight] of distinct(ids, logits, log_z, temperatures)) {
    target[ids[i]!] = weight * Math.exp(logits[i]! / TEMPERATURE - log_z[1]!);
  }
  return target;
}
