/**
 * What the page, the command line and the job say to each other: one typed union each way, plain data only.
 * The job runs in a worker; comlink carries `JobApi`, and events come through the callback given to `open`.
 *
 * Words for people are made by the page from these facts (both languages); no event carries a finished sentence but
 * errors, which come from InputError and EngineError.
 */
import type { BenchReport, BenchResult, Suite } from './bench/protocol.ts';
import type { HubSettings } from './hub.ts';
import type { EncoderSizes } from '../models/ready-students.ts';
import type { Recipe, RecipeInput } from '../recipe/schema.ts';
import type { FaultKind } from '../teacher/endpoint/server.ts';

export const STEPS = ['data', 'teacher', 'student', 'train', 'evaluate', 'export'] as const;
export type Step = (typeof STEPS)[number];

/** What the run keeps of itself; kept in the store, listed in the page. */
export interface RunSummary {
  readonly id: string;
  readonly name: string;
  readonly created: string;
  readonly state: 'new' | 'running' | 'paused' | 'stopped' | 'failed' | 'done';
  readonly recipe: Recipe;
  /** Bytes kept for it. */
  readonly bytes: number;
  readonly step: number;
  readonly of: number;
}

/** A line of metrics.jsonl; names and means as in `Trainer.state.log_history`. */
export interface MetricsLine {
  readonly step: number;
  readonly epoch: number;
  readonly loss?: number;
  readonly grad_norm?: number;
  readonly learning_rate?: number;
  readonly mean_token_accuracy?: number;
  readonly entropy?: number;
  /** Mean D(teacher, student), nats a token, without the T² of the objective. From draws an estimate, which may fall below 0. */
  readonly kl?: number;
  readonly ce?: number;
  /** Optimiser steps since the last line that fp16 left out, where there were any. */
  readonly skipped_steps?: number;
  readonly num_tokens?: number;
  readonly tokens_per_second?: number;
  readonly eval_loss?: number;
  readonly eval_ce?: number;
  readonly eval_kl?: number;
  readonly eval_mean_token_accuracy?: number;
  readonly eval_entropy?: number;
}

/** Bytes and seconds of a run, known before it starts. */
export interface Estimate {
  readonly gpu_bytes: number;
  readonly weights_bytes: number;
  readonly optimizer_bytes: number;
  readonly activations_bytes: number;
  readonly cache_bytes: number;
  readonly disk_bytes: number;
  readonly steps: number;
  readonly seconds_per_step: number;
  readonly seconds: number;
  /** Float operations of training a token (forward and backward), and tokens that the steps take a second. */
  readonly flops_per_token: number;
  readonly tokens_per_second: number;
  /** Of the whole models and of what is trained; absent where there is no such model. */
  readonly teacher_parameters?: number;
  readonly student_parameters?: number;
  readonly trainable_parameters?: number;
  /** Tokens of the student, and of the tokenizer, where the vocabulary is trimmed. */
  readonly vocabulary?: { readonly kept: number; readonly of: number };
  readonly train_rows?: number;
  readonly eval_rows?: number;
}

/** Cross entropy a token before any training, over a few rows that will evaluate the student. */
export interface StartLoss {
  readonly rows: number;
  readonly student: number;
  /** Of the model that the student is cut from; absent where nothing is cut. */
  readonly whole?: number;
}

/** What a person dropped or picked, by the path that the recipe gives it ("./rows.jsonl", "./teacher/config.json"). */
export type BroughtFiles = Readonly<Record<string, Blob>>;

/** The rows as the run will see them; the first few with their tokens. */
export interface Preview {
  readonly format: string;
  readonly rows: number;
  readonly columns: readonly string[];
  readonly problems: readonly { line: number; field?: string; what: string }[];
  readonly samples: readonly {
    messages: readonly ChatMessage[];
    /** `counts`: the loss looks at it (labels != -100). Absent where the student's tokenizer is not there yet. */
    tokens?: readonly { text: string; counts: boolean }[];
  }[];
  /** Tokens are hidden, for an encoder to guess. */
  readonly masked?: boolean;
  /** Rows longer than data.max_length, and the longest, in tokens. */
  readonly cut?: number;
  readonly longest?: number;
  /** Rows whose thought before the answer the student's chat template leaves out. */
  readonly without_thought?: number;
}

/** Mean with a 95% interval (Wilson for proportions). */
export interface Figure {
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly rows: number;
}

export interface Report {
  readonly recipe: Recipe;
  readonly adapter: {
    vendor: string;
    architecture: string;
    device: string;
    description: string;
    software: boolean;
    user_agent: string;
  };
  readonly data: {
    read: number;
    kept: number;
    cut: number;
    dropped: { reason: string; rows: number }[];
    tokens: number;
    counted_share: number;
    train_rows: number;
    eval_rows: number;
    /** Rows whose thought before the answer the student's chat template leaves out. */
    without_thought?: number;
    /** Tokens that stay, where the student's vocabulary is trimmed. */
    vocabulary?: { kept: number; of: number };
  };
  readonly teacher: {
    kind: string;
    parameters?: number;
    tokens_per_second?: number;
    cache_bytes?: number;
    /** Probability that the k largest logits hold, in the mean, at each temperature. */
    mass_kept?: Record<string, number>;
    /** Of a cache made by sampling: tokens drawn at each position. */
    draws?: number;
    /** That it wrote for the student to learn, and how many of them the student learns from. */
    answers?: { written: number; kept?: number };
  };
  readonly train: {
    steps: number;
    tokens: number;
    tokens_per_second: number;
    eval_loss_before?: number;
    eval_loss_after?: number;
    /** Whether layers were computed again in the backward pass: what the recipe says, or what the plan chose. */
    gradient_checkpointing?: boolean;
    /** Whether weights were updated in the backward pass, and no gradient kept. */
    optimizer_in_bwd?: boolean;
    planned_bytes: number;
    measured_bytes: number;
    seconds: number;
  };
  readonly evaluate: {
    tasks: { name: string; metric: string; teacher?: Figure; start?: Figure; student?: Figure }[];
    student_parameters: number;
  };
  readonly export: {
    files: {
      path: string;
      bytes: number;
      dtype: string;
      max_logit_difference?: number;
      top1_agreement?: number;
      eval_loss_before?: number;
      eval_loss_after?: number;
      max_weight_difference?: number;
    }[];
    seconds: number;
  };
  readonly history: { time: string; what: 'started' | 'paused' | 'resumed' | 'fault' | 'done'; detail?: string }[];
  /** Version of Stillroom, sha256 of everything that went in, and the commit of each model that came from Hugging Face. */
  readonly provenance: { stillroom: string; hashes: Record<string, string>; commits: Record<string, string> };
}

export type JobEvent =
  | {
      kind: 'adapter';
      vendor: string;
      architecture: string;
      device: string;
      description: string;
      software: boolean;
      limits: Record<string, number>;
      features: readonly string[];
    }
  | { kind: 'step'; step: Step; state: 'running' | 'done' | 'skipped' }
  /** How far a step is. `unit` says what is counted. */
  | {
      kind: 'progress';
      step: Step;
      done: number;
      of: number;
      unit: 'rows' | 'steps' | 'tokens' | 'bytes' | 'kernels' | 'files' | 'answers';
      seconds_left?: number;
      rate?: number;
    }
  /** Facts about a finished step, for the line under its name. */
  | { kind: 'fact'; step: Step; facts: Record<string, number | string> }
  | { kind: 'estimate'; estimate: Estimate }
  | { kind: 'metrics'; line: MetricsLine }
  /** What teacher and student write for the same unseen prompt. */
  | {
      kind: 'sample';
      step: number;
      prompt: string;
      expected?: string;
      teacher?: string;
      student: string;
    }
  /** Right answers on unseen rows while training goes on (step 0 is the start). */
  | { kind: 'score'; step: number; who: 'teacher' | 'student'; task: string; figure: Figure }
  | { kind: 'checkpoint'; step: number; bytes: number }
  | { kind: 'paused'; why: 'asked' | 'disk-full' | 'device-lost' | 'busy-elsewhere'; message?: string }
  | { kind: 'resumed' }
  | { kind: 'error'; input: boolean; message: string }
  | { kind: 'done'; report: Report };

export interface GenerateSettings {
  readonly temperature: number;
  readonly top_p: number;
  readonly max_new_tokens: number;
  readonly seed: number;
}

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** The next-token view that "one word, as each of them sees it" shows. */
export interface TokenChoice {
  readonly token: string;
  readonly teacher?: number;
  readonly student?: number;
}

/** A token of an answer, and what teacher and student thought where it stands. */
export interface OpenedToken {
  readonly text: string;
  /** KL(teacher ‖ student) in nats, at least; absent without a teacher. */
  readonly kl?: number;
  /** The likeliest tokens of either. */
  readonly choices: readonly TokenChoice[];
}

/** What trying a teacher's server told. */
export type TeacherTried =
  /** How it says what it thinks of a text; absent where it only writes answers. */
  | { readonly answers: true; readonly logprobs?: 'vLLM' | 'SGLang' | 'llama.cpp' }
  | { readonly answers: false; readonly fault: FaultKind; readonly message: string };

/** The worker's face. Every method may reject with an InputError's or EngineError's words. */
export interface JobApi {
  /** Keeps a new run with what it needs; starts nothing. `like`: a kept run whose files serve where `files` has none. */
  create(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<RunSummary>;
  /** All kept runs, the newest first. */
  runs(): Promise<RunSummary[]>;
  /** What a kept run has said so far, in order, one `progress` a step: enough to show it again after a reload. */
  events(id: string): Promise<JobEvent[]>;
  /** Forgets a run and all that was kept for it. */
  remove(id: string): Promise<void>;
  /** What the run has written (model/, adapter/, report.json, metrics.jsonl, recipe.json), for a zip or a folder. */
  files(id: string): Promise<{ path: string; blob: Blob }[]>;
  /** One file that holds the whole run, and back. */
  backup(id: string): Promise<Blob>;
  restore(file: Blob): Promise<RunSummary>;
  /** Reads rows (and the student's tokenizer), no weights. */
  preview(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<Preview>;
  /** The sizes of a model that is an encoder, by its config.json; undefined of a model that writes text. */
  encoderSizes(
    model: string,
    revision: string | undefined,
    files: BroughtFiles,
    like?: string,
  ): Promise<EncoderSizes | undefined>;
  /** Starts a new run, or goes on with a kept one; resolves when the run is done, stopped or paused. */
  run(id: string, onEvent: (event: JobEvent) => void): Promise<void>;
  /** The student's loss before it learns; `onProgress` hears how many models are done. Refused while a run is on. */
  startLoss(
    recipe: RecipeInput,
    files: BroughtFiles,
    like: string | undefined,
    onProgress: (done: number, of: number) => void,
  ): Promise<StartLoss>;
  pause(): Promise<void>;
  stop(): Promise<void>;
  /** Bytes, steps and time before the start; loads configs and data, no weights. */
  estimate(recipe: RecipeInput, files: BroughtFiles, like?: string): Promise<Estimate>;
  /** Streams an answer of the run's teacher or student: `onText` hears the text so far. Resolves with the whole text. */
  chat(
    runId: string,
    who: 'teacher' | 'start' | 'student',
    messages: ChatMessage[],
    settings: GenerateSettings,
    onText: (text: string) => void,
  ): Promise<string>;
  stopChat(): Promise<void>;
  /** The most likely next tokens after a text, by teacher and student. */
  nextToken(runId: string, text: string, top: number): Promise<TokenChoice[]>;
  /** Each token of an answer to these messages, opened. Refused while a run is on. */
  openAnswer(runId: string, messages: ChatMessage[], answer: string): Promise<OpenedToken[]>;
  /** Where names of models lead; given settings hold from now on: their addresses are kept, a token is not. */
  hub(settings?: HubSettings): Promise<HubSettings>;
  /** The key of a teacher's server, for this visit; empty takes it away. */
  teacherKey(url: string, key: string): Promise<void>;
  /** Whether a teacher's server answers, knows the model and says what it thinks. */
  tryTeacher(url: string, model: string): Promise<TeacherTried>;
  /** Takes the run that the command line asks for (`#/run?bridge=TOKEN`); `run` then works on it, there and here. */
  headless(token: string): Promise<RunSummary>;
  /** Measures this device; `onResult` hears each figure as it is there. Refused while a run is on. */
  bench(suites: readonly Suite[], onResult: (result: BenchResult) => void): Promise<BenchReport>;
}
