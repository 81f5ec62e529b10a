/**
 * The recipe being written, with the files that a person brought for it. It is kept as it was written (defaults absent);
 * parse.ts judges every change, and the job plans and previews what it judges good.
 */
import { InputError } from '../../formats/input-error.ts';
import type { BroughtFiles, Estimate, Preview } from '../../job/protocol.ts';
import type { Recipe, RecipeInput } from '../../recipe/schema.ts';
import { LORA_WHEN_ABSENT } from '../../recipe/lora-when-absent.ts';
import { job } from '../job.ts';

type Json = Readonly<Record<string, unknown>>;
export interface Problem {
  readonly place: string;
  readonly message: string;
}

const KEY = 'stillroom.recipe';
export const EMPTY: RecipeInput = {
  name: 'my student',
  student: { model: '' },
  teacher: { kind: 'engine', model: '' },
  data: { source: '' },
};
/** Waits until typing pauses. */
const PAUSE_MS = 300;

let draft = $state.raw<RecipeInput>(restored());
let files = $state.raw<BroughtFiles>({});
/** The kept run that the recipe comes from: its files serve where nothing newer was brought. */
let like = $state<string | undefined>();
let problem = $state.raw<Problem | undefined>();
let filled = $state.raw<Recipe | undefined>();
let estimate = $state.raw<Estimate | undefined>();
let preview = $state.raw<Preview | undefined>();
let planProblem = $state<string | undefined>();
let previewProblem = $state<string | undefined>();
let planning = $state(false);
let reading = $state(false);
let fromLink = $state(false);
let timer: ReturnType<typeof setTimeout> | undefined;
let round = 0;

function restored(): RecipeInput {
  try {
    const text = localStorage.getItem(KEY);
    return text === null ? EMPTY : (JSON.parse(text) as RecipeInput);
  } catch {
    return EMPTY;
  }
}

export const recipe = {
  get draft() {
    return draft;
  },
  get files() {
    return files;
  },
  get like() {
    return like;
  },
  /** The first thing that is wrong; undefined where the recipe can be run. */
  get problem() {
    return problem;
  },
  get filled() {
    return filled;
  },
  get estimate() {
    return estimate;
  },
  get preview() {
    return preview;
  },
  get planProblem() {
    return planProblem;
  },
  get previewProblem() {
    return previewProblem;
  },
  get planning() {
    return planning;
  },
  get reading() {
    return reading;
  },
  /** It came with a link, and nothing has been started. */
  get fromLink() {
    return fromLink;
  },
};

/** What was written at a dotted place, undefined where nothing was. */
export function valueAt(place: string): unknown {
  return place.split('.').reduce<unknown>((at, key) => (at as Json | null | undefined)?.[key], withLora(place));
}

/** Writes at a dotted place; undefined takes the field away, so that its default holds. */
export function setAt(place: string, value: unknown): void {
  const next = write(withLora(place) as unknown as Json, place.split('.'), value) as unknown as RecipeInput;
  const { compress } = next.student;
  // The last field that made it smaller was emptied: it is whole again.
  const whole = compress && Object.keys(compress).length === 0;
  change(whole ? { ...next, student: { ...next.student, compress: null } } : next);
}

/** The draft with what an absent `lora` stands for, where a field of it is meant. */
function withLora(place: string): RecipeInput {
  return place.startsWith('lora.') && draft.lora === undefined ? { ...draft, lora: LORA_WHEN_ABSENT } : draft;
}

function write(at: Json | null | undefined, [key, ...rest]: string[], value: unknown): Json {
  const next = rest.length > 0 ? write(at?.[key!] as Json | undefined, rest, value) : value;
  const { [key!]: _, ...others } = at ?? {};
  return next === undefined ? others : { ...at, [key!]: next };
}

/** @param from `link`: it came with one and nothing has been started; `run`: the kept run that it is the recipe of */
export function setRecipe(next: RecipeInput, from: { link?: boolean; run?: string } = {}): void {
  files = {};
  like = from.run;
  fromLink = from.link === true;
  change(next);
}

/** Another student for the same teacher and rows; what was brought stays. */
export function setStudent(next: RecipeInput): void {
  change(next);
}

/** A file or folder dropped or picked; `name` is what the recipe calls it. */
export function bring(name: string, brought: BroughtFiles): void {
  const others = Object.fromEntries(
    Object.entries(files).filter(([path]) => path !== name && !path.startsWith(`${name}/`)),
  );
  files = { ...others, ...brought };
}

function change(next: RecipeInput): void {
  draft = next;
  try {
    localStorage.setItem(KEY, JSON.stringify(next));
  } catch {
    // It is then forgotten when the page closes.
  }
  void judge();
}

/** Checks at once; plans and previews when typing pauses. The newest wins. */
export async function judge(): Promise<void> {
  const mine = ++round;
  const { parseRecipe } = await import('../../recipe/parse.ts');
  if (mine !== round) return;
  try {
    filled = parseRecipe(draft, 'recipe');
    problem = undefined;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    filled = undefined;
    problem = { place: error.place, message: error.message.replace(/^recipe: /, '') };
  }
  clearTimeout(timer);
  timer = setTimeout(() => void ask(mine), PAUSE_MS);
}

/** What a preview needs; the rest of the recipe may still be wrong or empty. */
function rowsAlone(): RecipeInput {
  const { model, revision } = draft.student;
  return { seed: draft.seed, data: draft.data, student: { model: model === '' ? 'none' : model, revision } };
}

async function ask(mine: number): Promise<void> {
  const say = (error: unknown): string => (error instanceof Error ? error.message : String(error));
  const current = () => mine === round;
  if (draft.data.source === '') {
    preview = undefined;
    previewProblem = undefined;
  } else {
    reading = true;
    const read = await job().preview(rowsAlone(), files, like).catch(say);
    if (!current()) return;
    reading = false;
    preview = typeof read === 'string' ? undefined : read;
    previewProblem = typeof read === 'string' ? read : undefined;
  }
  if (!filled) {
    estimate = undefined;
    planProblem = undefined;
    return;
  }
  planning = true;
  const plan = await job().estimate(draft, files, like).catch(say);
  if (!current()) return;
  planning = false;
  estimate = typeof plan === 'string' ? undefined : plan;
  planProblem = typeof plan === 'string' ? plan : undefined;
}

/** The bundled example: a tiny teacher, its rows and a ready recipe, all on this page's own address. */
export async function bundledRecipe(name: 'recipe' | 'recipe-text-alone' = 'recipe'): Promise<RecipeInput> {
  const response = await fetch(`./bundled/${name}.json`);
  if (!response.ok) throw new Error(`bundled/${name}.json: ${response.status}`);
  return (await response.json()) as RecipeInput;
}

/** The same student, rows, steps and seed, from the text alone. */
export function withoutTeacher(of: RecipeInput): RecipeInput {
  const { distill: _, ...rest } = of;
  const compress = of.student.compress;
  return {
    ...rest,
    name: `${of.name ?? 'distillation'}-text-alone`,
    teacher: { kind: 'none' },
    student: {
      ...of.student,
      // A student cut out of its teacher starts from the very same weights, named as its own.
      ...(compress?.from === 'teacher' && of.teacher?.kind === 'engine'
        ? { model: of.teacher.model, compress: { ...compress, from: 'student' } }
        : {}),
    },
  };
}
