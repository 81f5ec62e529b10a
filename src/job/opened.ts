/**
 * What a teacher and a student think at every place of a text: the likeliest next tokens of each, and how far apart they are.
 * One pass each; a model is asked for its largest logits and log Σ exp, as a cache is.
 */
import type { Device } from '../engine/run/device.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { EngineTeacher } from '../teacher/capture.ts';
import type { OpenedToken, TokenChoice } from './protocol.ts';
import type { DeviceModel } from './steps/device-model.ts';

/** Entries that are known of each place. */
const KNOWN = 64;
/** Lengths are rounded up to it, so that looking on compiles nothing new. */
const ROUNDED = 64;

/** What neither finds this likely would be shown as 0.0%. */
const SHOWN = 5e-4;

/** Probabilities of the next token after each place, the largest first. */
export type Likely = readonly ReadonlyMap<number, number>[];

export async function likely(device: Device, on: DeviceModel, ids: readonly number[]): Promise<Likely> {
  const most = on.options.max_position_embeddings;
  const read = ids.slice(-most);
  const length = Math.min(most, Math.ceil(read.length / ROUNDED) * ROUNDED);
  const k = Math.min(on.options.vocab_size, KNOWN);
  const reader = new EngineTeacher(device, on.options, on.tensors, { k, temperatures: [1], adapter: on.adapter });
  try {
    const padded = (value: (at: number) => number): Int32Array =>
      Int32Array.from({ length }, (_, at) => (at < read.length ? value(at) : 0));
    const {
      ids: best,
      logits,
      log_z,
    } = await reader.logits({
      rows: 1,
      length,
      input_ids: padded((at) => read[at]!),
      position_ids: padded((at) => at),
      segment_ids: padded(() => 1),
    });
    const known = read.map((_, at) => {
      const entries = Array.from({ length: k }, (_, i): [number, number] => [
        best[at * k + i]!,
        Math.exp(logits[at * k + i]! - log_z[at]!),
      ]);
      return new Map(entries);
    });
    // of a text longer than the model's positions, only the last ones were read
    return [...ids.slice(0, ids.length - read.length).map(() => new Map<number, number>()), ...known];
  } finally {
    reader.free();
  }
}

/**
 * KL(p ‖ q) in nats over the tokens that both are known at, everything else as one outcome: never more than the whole one.
 */
export function knownDivergence(p: ReadonlyMap<number, number>, q: ReadonlyMap<number, number>): number {
  let kl = 0;
  let restOfP = 1;
  let restOfQ = 1;
  for (const [id, teacher] of p) {
    const student = q.get(id);
    if (student === undefined) continue;
    kl += teacher * Math.log(teacher / student);
    restOfP -= teacher;
    restOfQ -= student;
  }
  // what rounding leaves of a rest is no outcome
  if (restOfP > 1e-6) kl += restOfP * Math.log(restOfP / Math.max(restOfQ, 1e-9));
  return Math.max(0, kl);
}

/** The likeliest tokens of either, by name. */
export function choicesOf(
  tokenizer: Tokenizer,
  student: ReadonlyMap<number, number>,
  teacher: ReadonlyMap<number, number> | undefined,
  top: number,
): TokenChoice[] {
  const first = (of: ReadonlyMap<number, number> | undefined): number[] => [...(of?.keys() ?? [])].slice(0, top);
  return [...new Set([...first(teacher), ...first(student)])]
    .map((id) => ({ token: tokenizer.decode([id]), teacher: teacher?.get(id), student: student.get(id) }))
    .sort((a, b) => Math.max(b.teacher ?? 0, b.student ?? 0) - Math.max(a.teacher ?? 0, a.student ?? 0))
    .slice(0, top);
}

/** The tokens of `ids` from `start` on, each with what was thought where it stands. */
export function openedTokens(
  tokenizer: Tokenizer,
  ids: readonly number[],
  start: number,
  student: Likely,
  teacher: Likely | undefined,
): OpenedToken[] {
  return texts(tokenizer, ids.slice(start)).map((text, i) => {
    const before = start + i - 1;
    const [q, p] = [student[before]!, teacher?.[before]];
    const choices = choicesOf(tokenizer, q, p, 5).filter(
      ({ teacher = 0, student: own = 0 }) => Math.max(teacher, own) >= SHOWN,
    );
    return { text, choices, ...(p && { kl: knownDivergence(p, q) }) };
  });
}

/** Each token's share of the text: a character of several tokens is said by the last of them. */
function texts(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  let said = '';
  return ids.map((_, i) => {
    const whole = tokenizer.decode(ids.slice(0, i + 1));
    if (whole.endsWith('\uFFFD') && i + 1 < ids.length) return '';
    const text = whole.slice(said.length);
    said = whole;
    return text;
  });
}
