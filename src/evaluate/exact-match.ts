/**
 * The share of rows whose final answer is right: the model writes, greedily, and what `answerOf` takes from its text is
 * compared with the expected answer.
 */
import type { Generator } from '../models/generate.ts';
import { proportion, type Proportion } from './interval.ts';

export interface Question {
  /** Prompt with the template around it, up to where the assistant speaks. */
  readonly input_ids: readonly number[];
  readonly expected: string;
}

export interface Answered {
  readonly text: string;
  readonly right: boolean;
}

export async function exactMatch(
  generator: Generator,
  questions: readonly Question[],
  how: {
    readonly max_new_tokens: number;
    readonly eos_token_ids: readonly number[];
    readonly decode: (tokens: readonly number[]) => string;
    readonly answerOf: (text: string) => string;
    readonly onProgress?: (done: number, of: number) => Promise<void> | void;
  },
): Promise<{ figure: Proportion; answers: Answered[] }> {
  const answers: Answered[] = [];
  for (let start = 0; start < questions.length; start += generator.shape.batch) {
    const batch = questions.slice(start, start + generator.shape.batch);
    const written = await generator.generate(
      batch.map((question) => question.input_ids),
      { temperature: 0, top_p: 1, seed: 0, max_new_tokens: how.max_new_tokens, eos_token_ids: how.eos_token_ids },
    );
    written.forEach((tokens, i) => {
      const text = how.decode(tokens);
      answers.push({ text, right: how.answerOf(text) === batch[i]!.expected });
    });
    await how.onProgress?.(answers.length, questions.length);
  }
  return { figure: proportion(answers.filter((answer) => answer.right).length, answers.length), answers };
}
