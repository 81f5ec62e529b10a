/**
 * Writing text: one pass over the prompts (left-padded to one length), then a token at a time against a key-value cache.
 * Programs are compiled for a batch size and a capacity, and serve every prompt that fits.
 */
import { Graph } from '../engine/graph/graph.ts';
import type { Value } from '../engine/graph/types.ts';
import { lastRow } from '../engine/ops/index.ts';
import { plan } from '../engine/plan/plan.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { Arena, Program, type Outputs } from '../engine/run/program.ts';
import { decoder, logitsOf, rotaryInputs, type DecoderAdapter, type DecoderOptions } from './decoder.ts';
import { tablesFor } from './rotary.ts';
import { pickToken, type Sampling } from './sampling.ts';

export interface GenerateOptions extends Sampling {
  readonly max_new_tokens: number;
  /** An answer ends with (and keeps) the first of these. */
  readonly eos_token_ids: readonly number[];
  /** Called with the tokens of each step (undefined for answers that have ended); a true result stops all. */
  readonly onTokens?: (tokens: readonly (number | undefined)[]) => boolean | void;
}

export interface GeneratorShape {
  readonly batch: number;
  /** Longest prompt, tokens. */
  readonly prompt: number;
  /** Prompt and answer together, tokens. */
  readonly capacity: number;
}

export class Generator {
  private constructor(
    private readonly device: Device,
    readonly shape: GeneratorShape,
    private readonly options: DecoderOptions,
    private readonly prefill: Program,
    private readonly decode: Program,
    private readonly caches: readonly DeviceTensor[],
    private readonly arena: Arena,
  ) {}

  static async create(
    device: Device,
    options: DecoderOptions,
    tensors: ReadonlyMap<string, DeviceTensor>,
    shape: GeneratorShape,
    adapter?: DecoderAdapter,
  ): Promise<Generator> {
    if (shape.capacity > options.max_position_embeddings) {
      throw new RangeError(
        `${shape.capacity} tokens are more than the model's ${options.max_position_embeddings} positions`,
      );
    }
    const arena = new Arena(device);
    const bound = new Map(tensors);
    const caches: DeviceTensor[] = [];
    const width = options.num_key_value_heads * options.head_dim;
    for (let layer = 0; layer < options.num_hidden_layers; layer++) {
      for (const part of ['key', 'value']) {
        const cache = await device.guarded(() =>
          device.tensor({ shape: [shape.batch, shape.capacity, width], dtype: 'f32' }),
        );
        bound.set(`cache.${layer}.${part}`, cache);
        caches.push(cache);
      }
    }
    const plans = [shape.prompt, 1].map((tokens) =>
      plan(nextTokenGraph(options, shape, tokens, adapter), device.limits),
    );
    for (const one of plans) arena.reserve(one.arenas);
    const prefill = await Program.create(device, plans[0]!, bound, arena);
    const decode = await Program.create(device, plans[1]!, bound, arena);
    return new Generator(device, shape, options, prefill, decode, caches, arena);
  }

  /** @returns the new tokens of each prompt */
  async generate(prompts: readonly (readonly number[])[], options: GenerateOptions): Promise<number[][]> {
    const { batch, prompt, capacity } = this.shape;
    const { vocab_size } = this.options;
    const longest = Math.max(...prompts.map(({ length }) => length));
    if (prompts.length > batch) throw new RangeError(`${prompts.length} prompts for a batch of ${batch}`);
    const key_segments = new Int32Array(batch * capacity);
    const input_ids = new Int32Array(batch * prompt);
    const position_ids = new Int32Array(batch * prompt);
    const query_segments = new Int32Array(batch * prompt);
    prompts.forEach((tokens, row) => {
      if (tokens.length > prompt || tokens.length === 0)
        throw new RangeError(`a prompt of ${tokens.length} tokens, at most ${prompt}`);
      const pad = prompt - tokens.length;
      key_segments.fill(1, row * capacity + pad, (row + 1) * capacity);
      query_segments.fill(1, row * prompt + pad, (row + 1) * prompt);
      tokens.forEach((token, t) => {
        input_ids[row * prompt + pad + t] = token;
        position_ids[row * prompt + pad + t] = t;
      });
    });

    const answers: number[][] = prompts.map(() => []);
    const open = new Set(prompts.keys());
    /** What was written, a step an entry; 0 where an answer has ended. */
    const steps: Int32Array[] = [];
    const read = (tokens: number): Promise<Outputs> =>
      this.prefill.run({
        input_ids,
        position_ids,
        query_segments,
        key_segments,
        past_length: Int32Array.of(0),
        ...rotaryInputs(this.options, capacity, tokens),
      });
    const readStep = (t: number, tokens: number): Promise<Outputs> =>
      this.decode.run({
        input_ids: steps[t]!,
        position_ids: Int32Array.from({ length: batch }, (_, row) => (prompts[row]?.length ?? 0) + t),
        query_segments: Int32Array.from({ length: batch }, (_, row) => (row < prompts.length ? 1 : 0)),
        key_segments,
        past_length: Int32Array.of(prompt + t),
        ...rotaryInputs(this.options, capacity, tokens),
      });
    let outputs = await read(longest);
    for (let t = 0; t < options.max_new_tokens; t++) {
      const logits = outputs.get('logits') as Float32Array;
      const step: (number | undefined)[] = prompts.map((_, row) => {
        if (!open.has(row)) return undefined;
        const token = pickToken(logits.subarray(row * vocab_size, (row + 1) * vocab_size), options, row, t);
        answers[row]!.push(token);
        if (options.eos_token_ids.includes(token)) open.delete(row);
        return token;
      });
      const stop = options.onTokens?.(step);
      if (stop || open.size === 0 || t + 1 === options.max_new_tokens || prompt + t >= capacity) break;
      steps.push(Int32Array.from({ length: batch }, (_, row) => step[row] ?? 0));
      const tokens = longest + t + 1;
      if (turnsAllAgain(this.options, tokens)) {
        await read(tokens);
        for (let before = 0; before < t; before++) await readStep(before, tokens);
      }
      outputs = await readStep(t, tokens);
    }
    return answers;
  }

  free(): void {
    this.prefill.free();
    this.decode.free();
    for (const cache of this.caches) this.device.freeTensor(cache);
    this.arena.free();
  }
}

/** Where longrope passes to its other factors, transformers fills the cache anew; under dynamic scaling keys stay. */
function turnsAllAgain({ rotary }: DecoderOptions, tokens: number): boolean {
  return rotary?.scaling.kind === 'longrope' && tablesFor(rotary, tokens) !== tablesFor(rotary, tokens - 1);
}

function nextTokenGraph(
  options: DecoderOptions,
  shape: GeneratorShape,
  tokens: number,
  adapter?: DecoderAdapter,
): Graph {
  const graph = new Graph();
  const ids = (name: string, length: number): Value => graph.input(name, [shape.batch, length], 'i32');
  const width = options.num_key_value_heads * options.head_dim;
  const cache = (part: string) => (layer: number) =>
    graph.state(`cache.${layer}.${part}`, [shape.batch, shape.capacity, width]);
  const { hidden, head } = decoder(
    graph,
    options,
    {
      input_ids: ids('input_ids', tokens),
      position_ids: ids('position_ids', tokens),
      query_segments: ids('query_segments', tokens),
      key_segments: ids('key_segments', shape.capacity),
      cache: { past_length: graph.input('past_length', [1], 'i32'), key: cache('key'), value: cache('value') },
    },
    { adapter },
  );
  graph.output('logits', logitsOf(options, lastRow(hidden), head));
  return graph;
}
