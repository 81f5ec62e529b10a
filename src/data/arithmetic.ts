/**
 * The bundled example's language: sums and differences worked column by column, as children learn it, the thought
 * inside <think>…</think> and the answer after it:
 *
 *   47 + 38 = ?   →   <think>7 + 8 = 15, write 5, carry 1; 4 + 3 + 1 = 8</think> 85
 *   52 - 38 = ?   →   <think>12 - 8 = 4, borrow 1; 5 - 3 - 1 = 1</think> 14
 *
 * Rows are a pure function of (seed, place). A tenth of all problems, chosen by a hash of the problem, is never given
 * to training, so that test rows are unseen by teacher and student alike, whatever their seeds.
 */
import { philox } from '../engine/ops/philox.ts';
import { Random, STREAM } from './random.ts';

export interface ArithmeticRow {
  readonly messages: readonly [
    { readonly role: 'user'; readonly content: string },
    { readonly role: 'assistant'; readonly content: string },
  ];
}

interface Problem {
  readonly a: number;
  readonly b: number;
  readonly sign: '+' | '-';
}

/** Longest row in the bundled tokenizer's tokens, template included; longer problems are not asked. */
export const MOST_TOKENS = 48;

/** @returns `count` rows, none twice before nearly all have been given, none of the other split. */
export function arithmeticRows(seed: number, count: number, split: 'train' | 'test'): ArithmeticRow[] {
  const random = new Random(seed, STREAM.rows);
  const seen = new Set<string>();
  const rows: ArithmeticRow[] = [];
  for (let misses = 0; rows.length < count;) {
    const problem = draw(random);
    const key = question(problem);
    if (seen.has(key)) {
      // All but a few have been given: a second round begins.
      if (++misses === 500) seen.clear();
      continue;
    }
    if (isTest(problem) !== (split === 'test') || tokensOf(problem) > MOST_TOKENS) continue;
    misses = 0;
    seen.add(key);
    rows.push({
      messages: [
        { role: 'user', content: key },
        { role: 'assistant', content: `<think>${work(problem)}</think> ${result(problem)}` },
      ],
    });
  }
  return rows;
}

/** Two-digit sums and differences, and a third of the rows with a three-digit first number. */
function draw(random: Random): Problem {
  const large = random.below(3) === 0;
  const a = large ? 100 + random.below(900) : 10 + random.below(90);
  const b = 10 + random.below(90);
  const sign = random.below(2) === 0 ? '+' : '-';
  return sign === '-' && b > a ? { a: b, b: a, sign } : { a, b, sign };
}

const question = ({ a, b, sign }: Problem) => `${a} ${sign} ${b} = ?`;

const result = ({ a, b, sign }: Problem) => (sign === '+' ? a + b : a - b);

function isTest({ a, b, sign }: Problem): boolean {
  return philox([a, b, sign === '+' ? 0 : 1, 0], [0x7e57, 0])[0] % 10 === 0;
}

/** Column by column from the right; a column that the smaller number lacks is worked only where something is carried. */
function work({ a, b, sign }: Problem): string {
  const upper = digits(a);
  const lower = digits(b);
  const steps: string[] = [];
  let over = 0;
  upper.forEach((digit, column) => {
    const last = column === upper.length - 1;
    const other = lower[column];
    const operands = [...(other === undefined ? [] : [other]), ...(over ? [1] : [])];
    const below = operands.reduce((sum, value) => sum + value, 0);
    if (operands.length === 0) steps.push(`${digit}`);
    else if (sign === '+') {
      const sum = digit + below;
      over = sum >= 10 ? 1 : 0;
      const carried = over && !last ? `, write ${sum - 10}, carry 1` : '';
      steps.push(`${[digit, ...operands].join(' + ')} = ${sum}${carried}`);
    } else {
      over = digit < below ? 1 : 0;
      const from = digit + 10 * over;
      steps.push(`${[from, ...operands].join(' - ')} = ${from - below}${over ? ', borrow 1' : ''}`);
    }
  });
  return steps.join('; ');
}

/** From the right. */
const digits = (value: number) => [...String(value)].reverse().map(Number);

/** Pieces of the bundled tokenizer: words with their blanks, else characters. */
const PIECES = / [+-] | = |, (?:write|carry|borrow) |; |[^]/g;

/** Prompt and answer with the chat template's tokens around them. */
function tokensOf(problem: Problem): number {
  const pieces = (text: string) => text.match(PIECES)?.length ?? 0;
  const turns = 2 * '<|im_start|> role \n <|im_end|> \n'.split(' ').length;
  return turns + pieces(question(problem)) + pieces(work(problem)) + pieces(` ${result(problem)}`) + 2;
}

/**
 * The answer in a text that a model wrote: what follows the thought, or the last `####` (GSM8K), or the whole; without
 * blanks, thousands separators, a currency sign before it or a full stop after it. '' where there is none.
 */
export function answerOf(text: string): string {
  const thought = text.lastIndexOf('</think>');
  const after = thought >= 0 ? text.slice(thought + '</think>'.length) : text.includes('<think>') ? '' : text;
  const marked = after.lastIndexOf('####');
  return after
    .slice(marked >= 0 ? marked + 4 : 0)
    .replace(/<\|im_end\|>[^]*$/, '')
    .trim()
    .replace(/(\d),(?=\d{3})/g, '$1')
    .replace(/^\$/, '')
    .replace(/\.$/, '');
}
