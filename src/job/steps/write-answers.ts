/**
 * Data distillation: the teacher writes the answers that the student learns, in place of the rows' own. Each is kept the
 * moment it comes, under its question, so that nothing is asked for twice; which of them are learnt from is decided anew in
 * every sitting from what is kept.
 */
import { answerOf } from '../../data/arithmetic.ts';
import type { Rewritten } from '../../data/prepare.ts';
import { askedOf, withAnswer, type AskedRow } from '../../data/question.ts';
import type { Row } from '../../data/row.ts';
import { InputError } from '../../formats/input-error.ts';
import type { Message } from '../../models/chat-template.ts';
import type { Tokenizer } from '../../models/tokenizer.ts';
import type { Distill } from '../../recipe/schema.ts';
import { sha256 } from '../../store/files.ts';
import { writeAnswer, type WrittenAnswer } from '../../teacher/endpoint/chat.ts';
import { connect } from '../../teacher/endpoint/connect.ts';
import { inOrder } from '../../teacher/endpoint/in-order.ts';
import type { ActiveRun } from '../active-run.ts';
import { asInput, type EndpointRecipe } from './endpoint.ts';
import { thoughtIn } from './thought.ts';

type Answers = NonNullable<Distill['answers']>;

const KEY = 'answer/';

interface Question extends AskedRow {
  /** Of the file, from 0. */
  readonly row: number;
  readonly hash: string;
}

/** One answer that is asked for. */
interface Wanted {
  readonly question: Question;
  readonly n: number;
  readonly key: string;
}

export async function writeAnswers(
  run: ActiveRun,
  answers: Answers,
  rows: readonly Row[],
  tokenizer: Tokenizer,
  file: string,
): Promise<Rewritten> {
  const { questions, again } = await questionsOf(rows, file);
  const wanted = questions.flatMap((question) =>
    Array.from({ length: answers.num_return_sequences }, (_, n) => ({
      question,
      n,
      key: `${KEY}${question.hash}/${n}`,
    })),
  );
  const kept = run.keep('answers');
  const there = new Set(await kept.keys(KEY));
  const missing = wanted.filter(({ key }) => !there.has(key));
  if (missing.length > 0) await ask(run, answers, missing, wanted.length);
  run.progress('data', wanted.length, wanted.length, 'answers');

  const written: { wanted: Wanted; answer: WrittenAnswer }[] = [];
  for (const one of wanted) {
    const bytes = (await kept.get(one.key))!;
    written.push({ wanted: one, answer: JSON.parse(new TextDecoder().decode(bytes)) as WrittenAnswer });
  }
  const result = choose(written, answers, rows, tokenizer);
  const n = answers.num_return_sequences;
  await run.find('teacher', {
    ...run.facts.found.teacher,
    kind: run.recipe.teacher.kind,
    answers: { written: written.length, kept: result.rows.length },
  });
  const dropped = again === 0 ? result.dropped : [...result.dropped, { reason: SAME_QUESTION, rows: again * n }];
  return { ...result, asked: rows.length * n, dropped };
}

async function ask(run: ActiveRun, answers: Answers, missing: readonly Wanted[], of: number): Promise<void> {
  const teacher = run.recipe.teacher as EndpointRecipe;
  const underWay = new AbortController();
  const { signal } = underWay;
  const server = await connect(teacher, run.host.reach.of(teacher.url), { signal }).catch(asInput);
  // From here on the run holds what was paid for.
  await run.find('teacher', {
    ...run.facts.found.teacher,
    kind: teacher.kind,
    answers: { written: of - missing.length },
  });
  const keep = run.keep('answers');
  const write = async ({ question, n, key }: Wanted): Promise<void> => {
    const { prompt } = question;
    const messages = typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : prompt;
    const answer = await writeAnswer(server, teacher.model, messages, answers, run.recipe.seed + n);
    await keep.put([{ key, bytes: new TextEncoder().encode(JSON.stringify(answer)) }], { durable: true });
  };
  const started = run.host.now().getTime();
  let done = 0;
  for await (const _ of inOrder(missing, teacher.num_concurrent, write, () => underWay.abort())) {
    done++;
    const rate = done / Math.max(1e-3, (run.host.now().getTime() - started) / 1000);
    run.progress('data', of - missing.length + done, of, 'answers', {
      rate,
      seconds_left: (missing.length - done) / rate,
    });
    await run.breathe();
  }
}

/** Of the same question asked in several rows the first. */
async function questionsOf(rows: readonly Row[], file: string): Promise<{ questions: Question[]; again: number }> {
  const questions = new Map<string, Question>();
  for (const [row, one] of rows.entries()) {
    const asked = askedOf(one);
    if (!asked) {
      throw new InputError(
        file,
        `row ${row + 1}`,
        'has no question that could be asked',
        'rows that end with an answer',
      );
    }
    const hash = await sha256(new TextEncoder().encode(JSON.stringify(asked.prompt)));
    if (!questions.has(hash)) questions.set(hash, { ...asked, row, hash });
  }
  return { questions: [...questions.values()], again: rows.length - questions.size };
}

const SAME_QUESTION = 'the same question as an earlier row';
const REASONS = {
  cut: 'the teacher’s answer was cut off at max_new_tokens',
  empty: 'the teacher’s answer is empty',
  wrong: 'the teacher’s final answer is not the row’s',
  again: 'the teacher’s answer is the same as another of the row',
};

/** What the student learns from. */
function choose(
  written: readonly { wanted: Wanted; answer: WrittenAnswer }[],
  { verify, reasoning }: Answers,
  rows: readonly Row[],
  tokenizer: Tokenizer,
): Pick<Rewritten, 'rows' | 'from' | 'dropped'> {
  const dropped = new Map<string, number>();
  const seen = new Set<string>();
  const result: { rows: Row[]; from: number[] } = { rows: [], from: [] };
  const reasonAgainst = (question: Question, answer: WrittenAnswer): string | undefined => {
    if (!answer.whole) return REASONS.cut;
    if (answer.content === '') return REASONS.empty;
    if (verify === 'exact_match' && answerOf(answer.content) !== answerOf(question.expected)) return REASONS.wrong;
    const words = `${question.hash} ${reasoning ? (answer.reasoning ?? '') : ''} ${answer.content}`;
    if (seen.has(words)) return REASONS.again;
    seen.add(words);
    return undefined;
  };
  for (const { wanted, answer } of written) {
    const { question } = wanted;
    const against = reasonAgainst(question, answer);
    if (against !== undefined) dropped.set(against, (dropped.get(against) ?? 0) + 1);
    else {
      result.rows.push(withAnswer(rows[question.row]!, messageOf(question, answer, reasoning, tokenizer)));
      result.from.push(question.row);
    }
  }
  return { ...result, dropped: [...dropped].map(([reason, rows]) => ({ reason, rows })) };
}

function messageOf({ prompt }: Question, answer: WrittenAnswer, reasoning: boolean, tokenizer: Tokenizer): Message {
  const { content } = answer;
  if (!reasoning || answer.reasoning === undefined) return { role: 'assistant', content };
  return thoughtIn(typeof prompt === 'string' ? undefined : tokenizer.chat_template, prompt, answer.reasoning, content);
}
