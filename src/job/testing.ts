/** A host in memory for tests in Node: a real GPU, the bundled files from public/, and seams where faults are put in. */
import { readFileSync } from 'node:fs';
import { nodeFile, nodeFolder } from '../cli/node-files.ts';
import { nodeGpu } from '../cli/node-gpu.ts';
import { MemorySource, type ByteSource } from '../formats/byte-source.ts';
import { MemoryKeep, type Keep } from '../formats/keep.ts';
import { parseRecipe } from '../recipe/parse.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { ActiveRun } from './active-run.ts';
import type { Host, LocalFiles, Outlet, RunShelf, Shelf, WritableFolder } from './host.ts';
import type { JobEvent } from './protocol.ts';
import { Reach } from './reach.ts';
import { newRun, type RunFacts } from './run-facts.ts';
import { work } from './work.ts';

export interface MemoryHost extends Host {
  readonly shelf: MemoryShelf;
  /** Every device that was asked for, in order. */
  readonly devices: GPUDevice[];
}

export class MemoryShelf implements Shelf {
  /** Called before every write of a Keep, with its area; an error that it returns breaks the write. */
  breakWrite: (area: string) => Error | undefined = () => undefined;
  private readonly keeps = new Map<string, MemoryKeep>();
  private readonly facts = new Map<string, RunFacts>();
  private readonly said = new Map<string, JobEvent[]>();

  readonly runs: RunShelf = {
    get: async (id) => (this.facts.has(id) ? { facts: this.facts.get(id)! } : undefined),
    list: async () => [...this.facts.values()].map((facts) => ({ facts })),
    put: async (id, _created, facts) => void this.facts.set(id, structuredClone(facts)),
    lines: async (id) => structuredClone(this.said.get(id) ?? []),
    append: async (id, lines) => void this.said.set(id, [...(this.said.get(id) ?? []), ...structuredClone(lines)]),
    trim: async (id, keep) => void this.said.set(id, (this.said.get(id) ?? []).filter(keep)),
    delete: async (id) => void [this.facts.delete(id), this.said.delete(id)],
  };

  keep(runId: string, area: string): Keep {
    const key = `${runId}/${area}`;
    const inner = this.keeps.get(key) ?? new MemoryKeep();
    this.keeps.set(key, inner);
    return {
      get: (name) => inner.get(name),
      put: async (entries) => {
        const fault = this.breakWrite(area);
        if (fault) throw fault;
        await inner.put(entries);
      },
      keys: (prefix) => inner.keys(prefix),
      delete: (names) => inner.delete(names),
    };
  }

  folder(runId: string, area: string): WritableFolder {
    return memoryFolder(this.keep(runId, `folder-${area}`));
  }

  through: Shelf['through'] = (_name, upstream) => upstream;
  lock: Shelf['lock'] = (_id, task) => task();
  tidy = async (): Promise<void> => undefined;
  busy = async (): Promise<Set<string>> => new Set();
  sizes = async (): Promise<Map<string, number>> => new Map();
  backup = async (): Promise<never> => Promise.reject(new Error('no backups in memory'));
  restore = async (): Promise<never> => Promise.reject(new Error('no backups in memory'));
}

function memoryFolder(keep: Keep): WritableFolder {
  return {
    name: 'out',
    async open(path) {
      const bytes = await keep.get(path);
      return bytes && new MemorySource(path, bytes);
    },
    list: () => keep.keys(''),
    async write(path, pieces) {
      const parts: Uint8Array[] = [];
      for await (const piece of pieces) parts.push(Uint8Array.from(piece));
      const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of parts) {
        bytes.set(part, at);
        at += part.length;
      }
      await keep.put([{ key: path, bytes }]);
    },
  };
}

/** Values of a recipe that are paths under a folder of this machine. */
export function diskFiles(root: string): LocalFiles {
  const resolve = (value: string): string => `${root}/${value}`;
  return {
    has: (value) => value.startsWith('./'),
    folder: (value) => nodeFolder(resolve(value), value),
    file: (value): Promise<ByteSource> => nodeFile(resolve(value), value),
  };
}

/** The bundled models by path, and the first rows of a bundled file as ./few.jsonl. */
export function fewRows(count: number, rows = 'test.jsonl'): LocalFiles {
  const few = readFileSync(`public/bundled/arithmetic/${rows}`, 'utf8').split('\n').slice(0, count).join('\n');
  return {
    ...diskFiles('public/bundled'),
    file: async (value) =>
      value === './few.jsonl' ? new MemorySource(value, new TextEncoder().encode(few)) : undefined,
  };
}

/** What the hosts of a test file know of the device: the self-test is made once. */
const REMEMBERED = new Map<string, unknown>();

/** @param smaller sizes that its devices are said to have, below what WebGPU promises (Device.create) */
export async function memoryHost(
  remembered = REMEMBERED,
  smaller: Readonly<Record<string, number>> = {},
): Promise<MemoryHost> {
  const gpu = await nodeGpu();
  const devices: GPUDevice[] = [];
  const watched = {
    async requestAdapter(options?: GPURequestAdapterOptions) {
      const adapter = await gpu.requestAdapter(options);
      const request = adapter?.requestDevice.bind(adapter);
      if (adapter && request) {
        adapter.requestDevice = async (descriptor) => {
          const device = await request(descriptor);
          const limits = new Proxy(device.limits, {
            get: (of, name) => smaller[String(name)] ?? Reflect.get(of, name, of),
          });
          Object.defineProperty(device, 'limits', { value: limits });
          devices.push(device);
          return device;
        };
      }
      return adapter;
    },
  } as GPU;
  return {
    version: '0.0.0',
    user_agent: 'test',
    gpu: watched,
    bundled: 'http://127.0.0.1:9/',
    hub: { huggingface: 'http://127.0.0.1:9', modelscope: 'http://127.0.0.1:9' },
    useHub: () => Promise.resolve(),
    reach: new Reach(),
    shelf: new MemoryShelf(),
    remembered: {
      get: async (name) => structuredClone(remembered.get(name)),
      put: async (name, value) => void remembered.set(name, structuredClone(value)),
    },
    devices,
    ort: async () => {
      const ort = await import('onnxruntime-web');
      ort.env.wasm.numThreads = 1;
      return ort;
    },
    now: () => new Date(),
  };
}

export interface TestRun {
  readonly id: string;
  readonly out: WritableFolder;
  /** One sitting: what it said. `onEvent` may pause, stop or break things. */
  sit(onEvent?: (event: JobEvent, run: ActiveRun) => void): Promise<JobEvent[]>;
  facts(): Promise<RunFacts>;
  lines(): Promise<JobEvent[]>;
}

export async function testRun(host: MemoryHost, input: RecipeInput, local: LocalFiles): Promise<TestRun> {
  const id = crypto.randomUUID();
  const first = newRun(id, parseRecipe(input, 'recipe.json'), 'recipe.json', host.now());
  await host.shelf.runs.put(id, first.created, first);
  const out = host.shelf.folder(id, 'out');
  const facts = async (): Promise<RunFacts> => (await host.shelf.runs.get(id))!.facts;
  let metrics: string[] = [];
  const outlet: Outlet = {
    write: (path, bytes) => out.write(path, bytes instanceof Uint8Array ? [bytes] : bytes),
    open: (path) => out.open(path),
    metrics: async (lines) => void (metrics = [...lines]),
    metric: async (line) => void metrics.push(line),
  };
  return {
    id,
    out,
    facts,
    lines: async () => metrics.map((line) => ({ kind: 'metrics', line: JSON.parse(line) }) as JobEvent),
    async sit(onEvent) {
      const events: JobEvent[] = [];
      const run: ActiveRun = new ActiveRun(host, await facts(), outlet, local, (event) => {
        events.push(event);
        onEvent?.(event, run);
      });
      await work(run);
      return events;
    },
  };
}
