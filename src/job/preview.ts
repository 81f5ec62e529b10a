/** The rows as a run will see them, before there is one: what was recognised, what is wrong, the first few with tokens. */
import { inspectDataset } from '../data/dataset.ts';
import { prepareData, settingsOf } from '../data/prepare.ts';
import type { Row } from '../data/row.ts';
import { cutRow, type Settings } from '../data/tokenize.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { studentEncoder } from './steps/student-encoder.ts';
import { studentTokenizer } from './steps/student-tokenizer.ts';
import type { RecipeContext } from './context.ts';
import type { ChatMessage, Preview } from './protocol.ts';

/** Rows beyond which lengths are not counted for a preview. */
const COUNTED_ROWS = 20_000;

export async function previewOf(context: RecipeContext): Promise<Preview> {
  const { recipe, sources } = context;
  const source = await sources.file('data.source', recipe.data.source);
  const { format, rows, columns, problems, samples } = await inspectDataset(source, recipe.data.format);
  const tokenizer = await tokenizerOf(context);
  const encoder = tokenizer && (await studentEncoder(context));
  const settings = settingsOf(recipe.data, encoder, recipe.seed);
  const shown = samples.map((row, i) => ({
    messages: messagesOf(row),
    ...(tokenizer && { tokens: tokensOf(row, i, tokenizer, settings, `${source.name}: row ${i + 1}`) }),
  }));
  const preview: Preview = { format, rows, columns, problems, samples: shown, ...(encoder && { masked: true }) };
  if (!tokenizer || problems.length > 0 || rows > COUNTED_ROWS) return preview;
  const { report, longest } = await prepareData(source, recipe.data, tokenizer, recipe.seed, { encoder });
  return { ...preview, cut: report.cut, longest, without_thought: report.without_thought };
}

/** undefined where the student cannot be reached yet: its rows can be looked at all the same. */
async function tokenizerOf(context: RecipeContext): Promise<Tokenizer | undefined> {
  try {
    return await studentTokenizer(context);
  } catch {
    return undefined;
  }
}

function messagesOf(row: Row): ChatMessage[] {
  const known = (messages: readonly { role: string; content: string }[]): ChatMessage[] =>
    messages.map(({ role, content }) => ({ role: role as ChatMessage['role'], content }));
  if ('text' in row) return [{ role: 'assistant', content: row.text }];
  if ('messages' in row) return known(row.messages);
  if (typeof row.prompt !== 'string') return known([...row.prompt, ...(row.completion as typeof row.prompt)]);
  return [
    { role: 'user', content: row.prompt },
    { role: 'assistant', content: row.completion as string },
  ];
}

function tokensOf(
  row: Row,
  index: number,
  tokenizer: Tokenizer,
  settings: Settings,
  place: string,
): { text: string; counts: boolean }[] {
  const { input_ids, labels } = cutRow(row, index, tokenizer, settings, place);
  const masked = settings.masking !== undefined;
  return input_ids.map((id, i) => ({
    text: textAfter(input_ids[i - 1], id, tokenizer),
    counts: labels[i] !== -100 && (masked || i > 0),
  }));
}

/** A token as it reads after another one: many tokenizers write the space before a word only where something stands before it. */
function textAfter(before: number | undefined, id: number, tokenizer: Tokenizer): string {
  if (before === undefined) return tokenizer.decode([id]);
  const [alone, both] = [tokenizer.decode([before]), tokenizer.decode([before, id])];
  // half a character does not read as it will with its other half
  return both.startsWith(alone) ? both.slice(alone.length) : tokenizer.decode([id]);
}
