/**
 * Talking to the models of a run: teacher, student as it started, student as it is now. Models stay on the device until
 * another run is talked to or a run begins.
 */
import type { Device } from '../engine/run/device.ts';
import { InputError } from '../formats/input-error.ts';
import { Generator } from '../models/generate.ts';
import { isEncoder, type ModelOptions } from '../models/architectures/index.ts';
import type { Model } from '../models/model.ts';
import { loadTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { trimFolder, type KeptTokens } from '../models/trim-vocabulary.ts';
import { Checkpoints } from './checkpoints.ts';
import type { RecipeContext } from './context.ts';
import type { Host } from './host.ts';
import { openKnownDevice } from './known-device.ts';
import { keptFiles } from './local-files.ts';
import { choicesOf, likely, openedTokens, type Likely } from './opened.ts';
import type { ChatMessage, GenerateSettings, OpenedToken, TokenChoice } from './protocol.ts';
import type { RunFacts } from './run-facts.ts';
import { Sources } from './sources.ts';
import { endTokens, readsOnly } from './steps/answers.ts';
import { openTeacher, studentOnDevice, teacherOnDevice, type DeviceModel } from './steps/device-model.ts';
import { IMPORTANCE, keptImportance } from './steps/importance.ts';
import { keptVocabulary, VOCABULARY } from './steps/data.ts';
import { studentEncoder } from './steps/student-encoder.ts';
import { studentFolder } from './steps/student-tokenizer.ts';
import { openStudent } from './steps/student.ts';
import { trainedWeights } from './steps/train-student.ts';

type Who = 'teacher' | 'start' | 'student';

interface Speaker {
  readonly on: DeviceModel;
  readonly model: Model<ModelOptions>;
  generator?: Generator;
}

/** Of the run that is talked to. */
interface Room {
  readonly runId: string;
  readonly context: RecipeContext;
  readonly device: Device;
  /** That of the teacher, and the student's own: the same where its vocabulary is not trimmed. */
  readonly tokenizer: Tokenizer;
  readonly own: Tokenizer;
  readonly vocabulary: KeptTokens | undefined;
  readonly speakers: Map<Who, Promise<Speaker>>;
}

export class Talk {
  private room: Promise<Room> | undefined;
  private stopped = false;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(private readonly host: Promise<Host>) {}

  async chat(
    facts: RunFacts,
    who: Who,
    messages: readonly ChatMessage[],
    settings: GenerateSettings,
    onText: (text: string) => void,
  ): Promise<string> {
    this.stopped = false;
    return this.inTurn(async () => {
      const room = await this.enter(facts);
      const { device } = room;
      const tokenizer = who === 'teacher' ? room.tokenizer : room.own;
      const prompt = promptOf(tokenizer, facts, messages);
      const speaker = await this.speaker(room, facts, who);
      const generator = await fitting(device, speaker, prompt.length, settings.max_new_tokens);
      const ids: number[] = [];
      const said = (): string => tokenizer.decode(ids, { skip_special_tokens: true });
      await generator.generate([prompt.slice(-generator.shape.prompt)], {
        ...settings,
        eos_token_ids: await endTokens(speaker.model, tokenizer),
        onTokens: ([token]) => {
          if (token !== undefined) ids.push(token);
          onText(said());
          return this.stopped;
        },
      });
      return said();
    });
  }

  stop(): void {
    this.stopped = true;
  }

  async nextToken(facts: RunFacts, text: string, top: number): Promise<TokenChoice[]> {
    return this.inTurn(async () => {
      const room = await this.enter(facts);
      const ids = room.own.encode(text);
      if (ids.length === 0) throw new InputError('text', '', 'is empty', 'at least one token');
      const { student, teacher } = await this.both(room, facts, ids);
      return choicesOf(room.tokenizer, student.at(-1)!, teacher?.at(-1), top);
    });
  }

  /** Every token of an answer to `messages`, with what each of them thought there. */
  async open(facts: RunFacts, messages: readonly ChatMessage[], answer: string): Promise<OpenedToken[]> {
    return this.inTurn(async () => {
      const room = await this.enter(facts);
      const asked = promptOf(room.own, facts, messages);
      const said = room.own.encode(answer, { add_special_tokens: false });
      const ids = [...asked, ...said];
      const { student, teacher } = await this.both(room, facts, ids);
      return openedTokens(room.tokenizer, inWhole(room, ids), asked.length, student, teacher);
    });
  }

  /** Gives the device back: a run needs its memory. */
  async close(): Promise<void> {
    this.stopped = true;
    await this.turn.catch(() => undefined);
    const room = await this.room?.catch(() => undefined);
    this.room = undefined;
    room?.device.destroy();
  }

  /** One after the other: they share a device. */
  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.turn.then(work, work);
    this.turn = result.catch(() => undefined);
    return result;
  }

  private async enter(facts: RunFacts): Promise<Room> {
    const open = await this.room?.catch(() => undefined);
    if (open?.runId === facts.id && !(await isLost(open.device))) return open;
    open?.device.destroy();
    this.room = this.prepare(facts);
    return this.room;
  }

  private async prepare(facts: RunFacts): Promise<Room> {
    const host = await this.host;
    const { recipe, recipe_file, id } = facts;
    const local = await keptFiles(host.shelf.folder(id, 'inputs'));
    const context = { recipe, recipeFile: recipe_file, sources: new Sources(host, local, recipe_file) };
    if (await studentEncoder(context)) throw readsOnly(recipe.student.model);
    const folder = await studentFolder(context);
    const tokenizer = await loadTokenizer(folder);
    const vocabulary = await keptVocabulary(host.shelf.keep(id, VOCABULARY));
    const own = vocabulary ? await loadTokenizer(trimFolder(folder, vocabulary)) : tokenizer;
    const device = await openKnownDevice(host);
    return { runId: id, context, tokenizer, own, vocabulary, device, speakers: new Map() };
  }

  private speaker(room: Room, facts: RunFacts, who: Who): Promise<Speaker> {
    const known = room.speakers.get(who);
    if (known) return known;
    const speaker = who === 'teacher' ? this.teacher(room) : this.student(room, facts, who);
    room.speakers.set(who, speaker);
    speaker.catch(() => room.speakers.delete(who));
    return speaker;
  }

  private async teacher({ context, device }: Room): Promise<Speaker> {
    const model = await openTeacher(context);
    if (!model) throw new InputError(context.recipeFile, 'teacher', 'does not run here', 'a teacher of kind "engine"');
    return { model, on: await teacherOnDevice(context, device, model) };
  }

  private async student(room: Room, facts: RunFacts, who: 'start' | 'student'): Promise<Speaker> {
    const { context, device, vocabulary } = room;
    const { shelf } = await this.host;
    if (facts.recipe.student.compress?.vocabulary === 'data' && !vocabulary) {
      throw new InputError(
        facts.name,
        '',
        'has not read which tokens its student keeps',
        'a run that has read its rows',
      );
    }
    const importance = await keptImportance(shelf.keep(facts.id, IMPORTANCE), facts.recipe, facts.name);
    const student = await openStudent({ ...context, importance, vocabulary });
    const trained = who === 'start' ? undefined : await trainedWeights(shelf.keep(facts.id, 'result'));
    if (who === 'student' && !trained) {
      const { length } = await new Checkpoints(shelf.keep(facts.id, 'checkpoints')).steps();
      const what = length > 0 ? 'has not finished training' : 'has not been trained yet';
      throw new InputError(facts.name, '', `its student ${what}`, 'a run that has gone through training');
    }
    return { model: student.model, on: await studentOnDevice(device, student, trained) };
  }

  /** @param ids of the student's vocabulary. @returns what they find likely, in ids of the whole one */
  private async both(
    room: Room,
    facts: RunFacts,
    ids: readonly number[],
  ): Promise<{ student: Likely; teacher?: Likely }> {
    const of = async (who: Who, read: readonly number[]): Promise<Likely> =>
      likely(room.device, (await this.speaker(room, facts, who)).on, read);
    const own = await of('student', ids);
    const { vocabulary } = room;
    const student = vocabulary
      ? own.map((place) => new Map([...place].map(([id, share]) => [vocabulary.kept[id]!, share])))
      : own;
    if (facts.recipe.teacher.kind !== 'engine') return { student };
    return { student, teacher: await of('teacher', inWhole(room, ids)) };
  }
}

const inWhole = ({ vocabulary }: Room, ids: readonly number[]): readonly number[] =>
  vocabulary ? ids.map((id) => vocabulary.kept[id]!) : ids;

/** The ids that an answer follows. */
function promptOf(tokenizer: Tokenizer, facts: RunFacts, messages: readonly ChatMessage[]): number[] {
  if (!tokenizer.chat_template) {
    throw new InputError(facts.recipe.student.model, '', 'has no chat template', 'a model that can chat');
  }
  const text = tokenizer.chat_template.render(
    messages.map((message) => ({ ...message })),
    { add_generation_prompt: true },
  );
  return tokenizer.encode(text, { add_special_tokens: false });
}

/** A generator is compiled for sizes: they grow by doubling, so that a conversation compiles a few. */
async function fitting(device: Device, speaker: Speaker, prompt: number, answer: number): Promise<Generator> {
  const { options, tensors, adapter } = speaker.on;
  if (isEncoder(options)) throw readsOnly(speaker.model.name);
  const most = options.max_position_embeddings;
  const known = speaker.generator;
  if (known && known.shape.prompt >= prompt && known.shape.capacity - known.shape.prompt >= answer) return known;
  known?.free();
  let size = 64;
  while (size < prompt) size *= 2;
  const shape = { batch: 1, prompt: Math.min(size, most - 1), capacity: Math.min(most, size + Math.max(answer, 128)) };
  speaker.generator = await Generator.create(device, options, tensors, shape, adapter);
  return speaker.generator;
}

async function isLost(device: Device): Promise<boolean> {
  try {
    device.refuseIfLost();
    return false;
  } catch {
    return true;
  }
}
