/**
 * JSON ─▶ Recipe: brought up to date, checked against the schema, defaults filled in, contradictions refused.
 * The result holds whatever was asked for in words that every room can trust; nothing has started yet.
 */
import * as v from 'valibot';
import { InputError } from '../formats/input-error.ts';
import { drawnOrLargest } from './derived.ts';
import { FIELDS, fieldAt } from './fields.ts';
import { migrate } from './migrations.ts';
import { recipe as schema, type Recipe } from './schema.ts';

/**
 * @param json what JSON.parse gave, or an object of the page
 * @param file the recipe's name in errors
 */
export function parseRecipe(json: unknown, file: string): Recipe {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new InputError(
      file,
      '',
      `is ${describe(json)}`,
      'a recipe is a JSON object with at least "student" and "data"',
    );
  }
  const current = migrate(json as Record<string, unknown>, file);
  const result = v.safeParse(schema, current);
  if (!result.success) throw toInputError(result.issues, file);
  const filled = settle(result.output);
  refuseContradictions(filled, file);
  return deepFreeze(filled);
}

/** The same from a file's text; a syntax error names its line. */
export function parseRecipeText(text: string, file: string): Recipe {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    const at = /position (\d+)/.exec(said)?.[1];
    const line = at === undefined ? '' : `line ${text.slice(0, Number(at)).split('\n').length}`;
    throw new InputError(
      file,
      line,
      `is not JSON (${said.replace(/\s+/g, ' ').slice(0, 160)})`,
      'a recipe is a JSON object',
    );
  }
  return parseRecipe(json, file);
}

/** Defaults that depend on another field. */
function settle(parsed: v.InferOutput<typeof schema>): Recipe {
  const { distill, training, teacher } = parsed;
  const objective = distill.objective ?? (teacher.kind === 'none' ? 'none' : 'forward_kl');
  const alpha = distill.alpha ?? (objective === 'none' ? 0 : 0.5);
  return {
    ...parsed,
    distill: { ...distill, objective, alpha },
    training: { ...training, eval_steps: training.eval_steps ?? training.logging_steps },
  };
}

function refuseContradictions(recipe: Recipe, file: string): void {
  const refuse = (place: string, what: string, allowed: string): never => {
    throw new InputError(file, place, what, allowed);
  };
  const { student, teacher, data, distill, lora, training } = recipe;

  if (teacher.kind === 'none') {
    if (distill.objective !== 'none') {
      refuse('distill.objective', `is "${distill.objective}" without a teacher`, '"none", or name a teacher');
    }
    if (distill.alpha > 0) refuse('distill.alpha', `is ${distill.alpha} without a teacher`, '0, or name a teacher');
    if (student.compress?.from === 'teacher') {
      refuse('student.compress.from', 'is "teacher" without a teacher', '"student", or name a teacher');
    }
  } else if (distill.objective === 'none' && distill.alpha > 0) {
    refuse('distill.alpha', `is ${distill.alpha} though distill.objective is "none"`, '0, or another objective');
  }
  if (student.compress?.from === 'teacher' && teacher.kind !== 'engine' && teacher.kind !== 'none') {
    refuse(
      'student.compress.from',
      `is "teacher" though the teacher is of kind "${teacher.kind}"`,
      'a teacher of kind "engine", whose weights can be cut, or "student"',
    );
  }
  if (distill.answers !== null && teacher.kind !== 'endpoint') {
    refuse(
      'distill.answers',
      `asks a teacher of kind "${teacher.kind}" to write`,
      'null, or a teacher of kind "endpoint"',
    );
  }
  if (teacher.kind === 'endpoint' && distill.objective !== 'none' && distill.temperature !== 1) {
    refuse(
      'distill.temperature',
      `is ${distill.temperature}, and a teacher behind a server gives probabilities at 1 alone`,
      '1, or a teacher of kind "engine"',
    );
  }
  if (teacher.kind === 'endpoint' && distill.objective !== 'none' && distill.tail === 'sampling') {
    refuse(
      'distill.tail',
      'is "sampling", and a teacher behind a server gives its likeliest tokens alone',
      '"bucket", "ignore" or "renormalize", or a teacher of kind "engine"',
    );
  }
  if (distill.objective === 'reverse_kl' || distill.objective === 'jsd') {
    const why = { ignore: 'on which # is not defined', sampling: 'from which # can’t be estimated' };
    if (distill.tail === 'ignore' || distill.tail === 'sampling') {
      refuse(
        'distill.tail',
        `is "${distill.tail}", ${why[distill.tail].replace('#', distill.objective)}`,
        '"bucket" or "renormalize", or objective "forward_kl"',
      );
    }
  }
  if (training.optimizer_in_bwd && training.gradient_accumulation_steps > 1) {
    refuse(
      'training.optimizer_in_bwd',
      `is true though gradient_accumulation_steps is ${training.gradient_accumulation_steps}: a sum over batches has to be kept`,
      'false, or gradient_accumulation_steps of 1',
    );
  }
  if (student.block_size !== undefined && (student.dtype === 'f32' || student.dtype === 'f16')) {
    refuse(
      'student.block_size',
      `is ${student.block_size} though student.dtype is "${student.dtype}", which has no blocks`,
      'absent, or a student.dtype of "int8", "uint8", "int4", "uint4" or "nf4"',
    );
  }
  const compress = student.compress;
  if (
    compress?.layers !== undefined &&
    compress.num_hidden_layers !== undefined &&
    compress.num_hidden_layers !== compress.layers.length
  ) {
    refuse(
      'student.compress.num_hidden_layers',
      `is ${compress.num_hidden_layers} though layers names ${compress.layers.length}`,
      'one of the two',
    );
  }
  if (compress?.layers?.some((layer, i, all) => i > 0 && layer <= all[i - 1]!)) {
    refuse(
      'student.compress.layers',
      `is [${compress.layers.join(', ')}]`,
      'layer numbers in rising order, none twice',
    );
  }
  if (data.assistant_only_loss && data.completion_only_loss === true) {
    refuse('data.completion_only_loss', 'is true beside assistant_only_loss', 'one of the two');
  }
  if (data.assistant_only_loss && data.format === 'text') {
    refuse(
      'data.assistant_only_loss',
      'is true though data.format is "text", where nobody speaks',
      'false, or rows with messages',
    );
  }
  if (
    data.completion_only_loss === true &&
    !['auto', 'prompt_completion', 'question_answer', 'alpaca'].includes(data.format)
  ) {
    refuse(
      'data.completion_only_loss',
      `is true though data.format is "${data.format}"`,
      'false or null, or rows with a prompt and a completion',
    );
  }
  if (training.warmup_ratio > 0 && training.warmup_steps > 0) {
    refuse(
      'training.warmup_ratio',
      `is ${training.warmup_ratio} beside warmup_steps ${training.warmup_steps}`,
      'one of the two; the other 0 or absent',
    );
  }
  if (training.eval_strategy !== 'no' && data.eval_fraction === 0) {
    refuse(
      'training.eval_strategy',
      `is "${training.eval_strategy}" though data.eval_fraction is 0`,
      '"no", or a data.eval_fraction greater than 0',
    );
  }
  if (training.load_best_model_at_end) refuseBestModel(training, refuse);
  if (lora === null && student.adapter !== null) {
    refuse(
      'lora',
      'is null (all weights) though student.adapter goes on from an adapter',
      'LoRA settings, or student.adapter null',
    );
  }
}

/** As transformers' TrainingArguments does: the best model can only be a saved one. */
function refuseBestModel(
  training: Recipe['training'],
  refuse: (place: string, what: string, allowed: string) => never,
): void {
  const place = 'training.load_best_model_at_end';
  if (training.eval_strategy === 'no')
    refuse(place, 'is true though eval_strategy is "no"', 'an eval_strategy of "steps" or "epoch"');
  if (training.save_strategy !== training.eval_strategy) {
    refuse(
      place,
      `is true though save_strategy "${training.save_strategy}" is not eval_strategy "${training.eval_strategy}"`,
      'the same strategy for both',
    );
  }
  if (training.eval_strategy === 'steps' && !isMultiple(training.save_steps, training.eval_steps)) {
    refuse(
      place,
      `is true though save_steps ${training.save_steps} is not a multiple of eval_steps ${training.eval_steps}`,
      'save_steps that is a multiple of eval_steps',
    );
  }
}

/** Shares of a run (below 1) and numbers of steps can't be compared; shares are as transformers does, in millionths. */
function isMultiple(save: number, evaluate: number): boolean {
  if (save < 1 !== evaluate < 1) return false;
  return save < 1 ? Math.round(save * 1e6) % Math.round(evaluate * 1e6) === 0 : save % evaluate === 0;
}

/**
 * Refuses a temperature that a cache was not made for: log Σ exp(z/T) is known at declared temperatures only.
 * @param declared temperatures in the cache's header; 1 is always among them
 */
export function checkTemperature(recipe: Recipe, declared: readonly number[], file: string): void {
  const { temperature, alpha } = recipe.distill;
  if (alpha === 0 || declared.includes(temperature)) return;
  throw new InputError(
    file,
    'distill.temperature',
    `is ${temperature}, which the teacher's cache was not made for`,
    `one of ${declared.join(', ')}, or make the cache again`,
  );
}

/** Refuses a cache whose entries were chosen otherwise than the recipe's rule for the tail takes them. */
export function checkEntries(recipe: Recipe, entries: ReturnType<typeof drawnOrLargest>, file: string): void {
  const { tail } = recipe.distill;
  if (drawnOrLargest(recipe) === entries) return;
  throw entries === 'topk'
    ? new InputError(
        file,
        'distill.tail',
        `is "${tail}", and the teacher's cache holds its largest logits`,
        '"bucket", "ignore" or "renormalize", or a cache made by sampling',
      )
    : new InputError(file, 'distill.tail', `is "${tail}", and the teacher's cache was made by sampling`, '"sampling"');
}

function toInputError(issues: readonly v.BaseIssue<unknown>[], file: string): InputError {
  // A misspelt name explains a missing one, so unknown fields are told first.
  const unknown = issues.find((issue) => issue.type === 'strict_object' && issue.expected === 'never');
  const issue = unknown ?? issues[0]!;
  const place = v.getDotPath(issue) ?? '';
  if (issue === unknown) return new InputError(file, place, 'is not a field of a recipe', nearest(place, issue));
  const allowed = fieldAt(place)?.allowed ?? 'see docs/recipes.md';
  if (issue.input === undefined) return new InputError(file, place, 'is missing', allowed);
  return new InputError(file, place, `is ${describe(issue.input)}`, allowed);
}

/** "did you mean …", looking beside the unknown field first and then anywhere. */
function nearest(place: string, issue: v.BaseIssue<unknown>): string {
  const dot = place.lastIndexOf('.');
  const parent = place.slice(0, Math.max(dot, 0)).replace(/\.\d+(?=\.|$)/g, '[]');
  const name = place.slice(dot + 1).toLowerCase();
  const kind = teacherKind(issue);
  const fields = FIELDS.filter(
    (field) => kind === undefined || !field.teacherKinds || field.teacherKinds.includes(kind),
  );
  const ranked = fields
    .map((field) => {
      const end = field.place.lastIndexOf('.');
      const beside = field.place.slice(0, Math.max(end, 0)) === parent;
      const distance = levenshtein(name, field.place.slice(end + 1).toLowerCase());
      return { field, beside, distance, rank: distance + (beside ? 0 : 1.5) };
    })
    .sort((a, b) => a.rank - b.rank);
  const best = ranked[0]!;
  if (best.distance <= Math.max(2, name.length / 2)) {
    return `the nearest is ${best.beside ? best.field.place.slice(best.field.place.lastIndexOf('.') + 1) : best.field.place}`;
  }
  const siblings = ranked
    .filter(({ beside }) => beside)
    .map(({ field }) => field.place.slice(field.place.lastIndexOf('.') + 1));
  return `the nearest is ${siblings[0] ?? best.field.place}; fields here are ${[...siblings].sort().join(', ')}`;
}

function teacherKind(issue: v.BaseIssue<unknown>): string | undefined {
  const step = issue.path?.find((item) => item.key === 'teacher');
  const kind = (step?.value as { kind?: unknown } | undefined)?.kind;
  return typeof kind === 'string' ? kind : undefined;
}

/** Edits (insert, delete, replace) between two words. */
export function levenshtein(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** A value as an error shows it: short, and with its type where that is the matter. */
function describe(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'string') {
    const shown = JSON.stringify(value);
    return `${shown.length > 60 ? `${shown.slice(0, 57)}…"` : shown} (a text)`;
  }
  return String(value);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(deepFreeze);
  }
  return value;
}
