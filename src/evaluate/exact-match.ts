/** The task `exact_match`: the share of questions whose final answer is the expected one, answered greedily in batches. */
import { wilson, type Proportion } from './interval.ts';

export interface Question {
  /** Token ids, up to where the answer begins. */
  readonly prompt: readonly number[];
  readonly expected: string;
}

/** Writes the rest of each prompt, at most as many prompts at once as `batch`. */
export interface Answerer {
  readonly batch: number;
  answer(prompts: readonly (readonly number[])[]): Promise<string[]>;
}

/** @param final the answer in a text: what is compared */
export async function exactMatch(
  questions: readonly Question[],
  answerer: Answerer,
  final: (text: string) => string,
  onProgress?: (done: number, of: number) => Promise<void> | void,
): Promise<Proportion> {
  let right = 0;
  for (let at = 0; at < questions.length; at += answerer.batch) {
    const asked = questions.slice(at, at + answerer.batch);
    const answers = await answerer.answer(asked.map(({ prompt }) => prompt));
    answers.forEach((text, i) => {
      const expected = final(asked[i]!.expected);
      if (expected !== '' && final(text) === expected) right++;
    });
    await onProgress?.(Math.min(questions.length, at + answerer.batch), questions.length);
  }
  return wilson(right, questions.length);
}
