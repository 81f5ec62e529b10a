/**
 * What a job is handed by the place it runs in: a GPU, a shelf to keep things on, addresses, a clock. The browser's is
 * browser-host.ts; tests hand in one that lies in memory. Nothing else of job/ knows where it runs.
 */
import type { OrtModule } from '../export/verify/session.ts';
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import type { Keep } from '../formats/keep.ts';
import type { HubSettings } from './hub.ts';
import type { Reach } from './reach.ts';
import type { RunFacts } from './run-facts.ts';
import type { JobEvent } from './protocol.ts';

export interface Host {
  /** Stillroom's version. */
  readonly version: string;
  readonly user_agent: string;
  readonly gpu: GPU | undefined;
  /** Where `bundled:NAME` lies, with a slash at its end. */
  readonly bundled: string;
  /** Where names of models lead. */
  readonly hub: HubSettings;
  /** From now on; addresses are kept, a token is not. */
  useHub(settings: HubSettings): Promise<void>;
  /** How the servers of teachers are reached. */
  readonly reach: Reach;
  readonly shelf: Shelf;
  /** Small things that outlive a run; plain data. */
  readonly remembered: { get(name: string): Promise<unknown>; put(name: string, value: unknown): Promise<void> };
  /** ONNX Runtime, loaded when a file is opened again. */
  ort(): Promise<OrtModule>;
  now(): Date;
}

/** Files that come one by one and may be too large to hold. */
export interface WritableFolder extends FileSource {
  list(): Promise<string[]>;
  /** All of the file or nothing. */
  write(path: string, pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void>;
}

export interface Shelf {
  readonly runs: RunShelf;
  keep(runId: string, area: string): Keep;
  folder(runId: string, area: string): WritableFolder;
  /** A model from elsewhere behind what is kept of it; `name` names the bytes. */
  through(name: string, upstream: FileSource): FileSource;
  /** Rejects with `Busy` where someone else works on the run. */
  lock<T>(runId: string, work: () => Promise<T>): Promise<T>;
  /** Collects what a crash left behind; the lock is held. */
  tidy(runId: string): Promise<void>;
  /** Runs that someone works on now. */
  busy(): Promise<ReadonlySet<string>>;
  /** Bytes kept by run id. */
  sizes(): Promise<ReadonlyMap<string, number>>;
  backup(runId: string): Promise<ReadableStream<Uint8Array>>;
  /** Resolves with the id of the run. */
  restore(file: ByteSource): Promise<string>;
}

/** Facts of runs, and for each what it said, in order. */
export interface RunShelf {
  get(id: string): Promise<{ facts: RunFacts } | undefined>;
  /** The newest first. */
  list(): Promise<{ facts: RunFacts }[]>;
  put(id: string, created: string, facts: RunFacts): Promise<void>;
  lines(id: string): Promise<JobEvent[]>;
  append(id: string, lines: readonly JobEvent[]): Promise<void>;
  trim(id: string, keep: (line: JobEvent) => boolean): Promise<void>;
  delete(id: string): Promise<void>;
}

/** What the recipe names by path: files brought into the page, or those of the command line's machine. */
export interface LocalFiles {
  has(value: string): boolean;
  folder(value: string): FileSource;
  file(value: string): Promise<ByteSource | undefined>;
}

/** Where a run's outputs go: the page's store, or the command line's folder. */
export interface Outlet {
  write(path: string, bytes: Uint8Array | AsyncIterable<Uint8Array>): Promise<void>;
  /** What was written, to look at it again. */
  open(path: string): Promise<ByteSource | undefined>;
  /** metrics.jsonl, whole: what a run that goes back to a checkpoint begins with. */
  metrics(lines: readonly string[]): Promise<void>;
  /** A line of metrics.jsonl. */
  metric(line: string): Promise<void>;
}
