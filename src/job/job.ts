/**
 * The job's face to the page: runs made, listed, worked on, backed up and talked to. One run at a time is worked on in a
 * page; which one that is, across pages, the shelf's lock decides.
 */
import { EngineError } from '../engine/errors.ts';
import { blobFile } from '../formats/blob-source.ts';
import { InputError } from '../formats/input-error.ts';
import { parseRecipe } from '../recipe/parse.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { Busy } from '../store/faults.ts';
import { ActiveRun, metricsLines } from './active-run.ts';
import { runBench } from './bench/bench.ts';
import type { BenchReport, BenchResult, Suite } from './bench/protocol.ts';
import type { RecipeContext } from './context.ts';
import { estimateOf } from './estimate.ts';
import { openBridge, type Bridge } from './bridge.ts';
import { bridgeDriver, HEADLESS, headlessRun } from './headless.ts';
import type { Host } from './host.ts';
import { openKnownDevice } from './known-device.ts';
import { startLossOf } from './start-loss.ts';
import { checked, type HubSettings } from './hub.ts';
import { broughtFiles, firstOf, keepBrought, keptFiles } from './local-files.ts';
import { pageOutlet } from './page-outlet.ts';
import type { EncoderSizes } from '../models/ready-students.ts';
import { previewOf } from './preview.ts';
import type {
  BroughtFiles,
  ChatMessage,
  Estimate,
  GenerateSettings,
  JobApi,
  JobEvent,
  OpenedToken,
  Preview,
  RunSummary,
  TeacherTried,
  TokenChoice,
  StartLoss,
} from './protocol.ts';
import { newRun, summaryOf } from './run-facts.ts';
import { Sources } from './sources.ts';
import { studentEncoder } from './steps/student-encoder.ts';
import { Talk } from './talk.ts';
import { retold } from './told.ts';
import { tryTeacher } from './try-teacher.ts';
import { work } from './work.ts';

/** What errors call a recipe that was made in the page. */
const RECIPE = 'recipe';

export class Job implements JobApi {
  private active: ActiveRun | undefined;
  /** To the command line that drives this page. */
  private bridge: Bridge | undefined;
  private readonly talk: Talk;

  constructor(private readonly host: Promise<Host>) {
    this.talk = new Talk(host);
  }

  async create(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<RunSummary> {
    const { shelf, now } = await this.host;
    const { runs, folder, sizes } = shelf;
    const id = crypto.randomUUID();
    const facts = newRun(id, parseRecipe(recipe, RECIPE), RECIPE, now());
    try {
      await keepBrought(files, folder(id, 'inputs'), like === undefined ? undefined : folder(like, 'inputs'));
      await runs.put(id, facts.created, facts);
    } catch (error) {
      await runs.delete(id);
      throw error;
    }
    return summaryOf(facts, (await sizes()).get(id) ?? 0);
  }

  async runs(): Promise<RunSummary[]> {
    const { shelf } = await this.host;
    const [kept, sizes, busy] = await Promise.all([shelf.runs.list(), shelf.sizes(), shelf.busy()]);
    return kept.map(({ facts }) => {
      const summary = summaryOf(facts, sizes.get(facts.id) ?? 0);
      // One that says it is running and that nobody works on died with its page.
      return summary.state === 'running' && !busy.has(facts.id) ? { ...summary, state: 'paused' } : summary;
    });
  }

  async events(id: string): Promise<JobEvent[]> {
    const { facts } = await this.kept(id);
    return retold(facts, await (await this.host).shelf.runs.lines(id));
  }

  async remove(id: string): Promise<void> {
    const { shelf } = await this.host;
    await this.talk.close();
    await shelf.lock(id, () => shelf.runs.delete(id));
  }

  async files(id: string): Promise<{ path: string; blob: Blob }[]> {
    await this.kept(id);
    const { shelf } = await this.host;
    const folder = shelf.folder(id, 'out');
    const files: { path: string; blob: Blob }[] = [];
    for (const path of await folder.list()) {
      const source = (await folder.open(path))!;
      const parts: Uint8Array<ArrayBuffer>[] = [];
      const step = 16 * 1024 * 1024;
      for (let at = 0; at < source.size; at += step) {
        parts.push(await source.read(at, Math.min(source.size, at + step)));
      }
      files.push({ path, blob: new Blob(parts) });
    }
    const metrics = metricsLines(await shelf.runs.lines(id));
    files.push({ path: 'metrics.jsonl', blob: new Blob(metrics.map((line) => `${line}\n`)) });
    return files;
  }

  async backup(id: string): Promise<Blob> {
    const { shelf } = await this.host;
    return new Response(await shelf.backup(id)).blob();
  }

  async restore(file: Blob): Promise<RunSummary> {
    const { shelf } = await this.host;
    const id = await shelf.restore(blobFile(file, file instanceof File ? file.name : 'backup'));
    const { facts } = await this.kept(id);
    return summaryOf(facts, (await shelf.sizes()).get(id) ?? 0);
  }

  async preview(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<Preview> {
    return previewOf(await this.context(recipe, files, like));
  }

  async encoderSizes(
    model: string,
    revision: string | undefined,
    files: BroughtFiles,
    like?: string,
  ): Promise<EncoderSizes | undefined> {
    const alone: RecipeInput = { student: { model, revision }, data: { source: 'none' } };
    const encoder = await studentEncoder(await this.context(alone, files, like));
    if (!encoder) return undefined;
    const { num_hidden_layers, hidden_size, intermediate_size } = encoder;
    return { num_hidden_layers, hidden_size, intermediate_size };
  }

  async estimate(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<Estimate> {
    return estimateOf(await this.context(recipe, files, like), await this.host);
  }

  async run(id: string, onEvent: (event: JobEvent) => void): Promise<void> {
    if (this.active) throw new InputError(id, '', 'another run is going on in this page', 'one run at a time');
    const host = await this.host;
    const driver = this.bridge && id === HEADLESS ? bridgeDriver(this.bridge) : undefined;
    const hear = (event: JobEvent): void => {
      onEvent(event);
      driver?.hear(event);
    };
    await this.talk.close();
    try {
      await host.shelf.lock(id, async () => {
        const { facts } = await this.kept(id);
        const local = driver?.files ?? (await keptFiles(host.shelf.folder(id, 'inputs')));
        const outlet = driver?.outlet ?? pageOutlet(host.shelf.folder(id, 'out'));
        await this.sit(new ActiveRun(host, facts, outlet, local, hear));
      });
    } catch (error) {
      if (!(error instanceof Busy)) {
        driver?.hear({ kind: 'error', input: error instanceof InputError, message: (error as Error).message });
        await driver?.heard();
        throw error;
      }
      hear({ kind: 'paused', why: 'busy-elsewhere', message: error.message });
    }
    await driver?.heard();
  }

  async headless(token: string): Promise<RunSummary> {
    this.bridge = await openBridge(token);
    const host = await this.host;
    await host.useHub({ ...host.hub, ...this.bridge.start.hub });
    host.reach.door = this.bridge.teacher;
    return summaryOf(await headlessRun(host, this.bridge.start), 0);
  }

  async hub(settings?: HubSettings): Promise<HubSettings> {
    const host = await this.host;
    if (settings) await host.useHub(checked(settings));
    return host.hub;
  }

  async teacherKey(url: string, key: string): Promise<void> {
    (await this.host).reach.useKey(url, key);
  }

  async tryTeacher(url: string, model: string): Promise<TeacherTried> {
    return tryTeacher({ url, model }, (await this.host).reach.of(url));
  }

  async startLoss(
    recipe: RecipeInput,
    files: BroughtFiles,
    like: string | undefined,
    onProgress: (done: number, of: number) => void,
  ): Promise<StartLoss> {
    if (this.active) throw new InputError('start loss', '', 'a run is going on in this page', 'a look when it is done');
    const context = await this.context(recipe, files, like);
    await this.talk.close();
    const device = await openKnownDevice(await this.host);
    try {
      return await startLossOf(context, device, onProgress);
    } finally {
      device.destroy();
    }
  }

  async bench(suites: readonly Suite[], onResult: (result: BenchResult) => void): Promise<BenchReport> {
    if (this.active) throw new InputError('bench', '', 'a run is going on in this page', 'measuring when it is done');
    const host = await this.host;
    if (!host.gpu) throw new EngineError('no-webgpu');
    const sources = new Sources(host, broughtFiles({}), RECIPE);
    await this.talk.close();
    return runBench(host.gpu, suites, () => sources.model('bench', 'bundled:arithmetic'), onResult);
  }

  private async sit(run: ActiveRun): Promise<void> {
    this.active = run;
    try {
      await work(run);
    } finally {
      this.active = undefined;
    }
  }

  async pause(): Promise<void> {
    if (this.active) this.active.asked = 'paused';
  }

  async stop(): Promise<void> {
    if (this.active) this.active.asked = 'stopped';
  }

  async chat(
    runId: string,
    who: 'teacher' | 'start' | 'student',
    messages: ChatMessage[],
    settings: GenerateSettings,
    onText: (text: string) => void,
  ): Promise<string> {
    return this.talk.chat((await this.kept(runId)).facts, who, messages, settings, onText);
  }

  async stopChat(): Promise<void> {
    this.talk.stop();
  }

  async nextToken(runId: string, text: string, top: number): Promise<TokenChoice[]> {
    return this.talk.nextToken((await this.kept(runId)).facts, text, top);
  }

  async openAnswer(runId: string, messages: ChatMessage[], answer: string): Promise<OpenedToken[]> {
    if (this.active) throw new InputError('answer', '', 'a run is going on in this page', 'looking when it is done');
    return this.talk.open((await this.kept(runId)).facts, messages, answer);
  }

  private async context(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<RecipeContext> {
    const host = await this.host;
    const brought = broughtFiles(files);
    const local = like === undefined ? brought : firstOf(brought, await keptFiles(host.shelf.folder(like, 'inputs')));
    const sources = new Sources(host, local, RECIPE);
    return { recipe: parseRecipe(recipe, RECIPE), sources, recipeFile: RECIPE };
  }

  private async kept(id: string): Promise<{ facts: ReturnType<typeof newRun> }> {
    const found = await (await this.host).shelf.runs.get(id);
    if (!found) throw new InputError(id, '', 'there is no such run', 'one of the kept runs');
    return found;
  }
}
