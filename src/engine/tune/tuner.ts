/**
 * Which variant of a kernel is fastest on this device, measured on the shapes that a plan needs. The heaviest come first and
 * the time that may be spent is given, so that a slow compiler costs no more than that and one candidate. A candidate must
 * give the numbers of the safe variant, which the self-test has held against float64.
 */
import { EngineError } from '../errors.ts';
import { Graph } from '../graph/graph.ts';
import { bytesOf, type Dispatch, type KernelChoice, type OpDefinition, type Operand } from '../graph/types.ts';
import { plan, type Plan } from '../plan/plan.ts';
import type { Device, DeviceTensor } from '../run/device.ts';
import { Arena, Program } from '../run/program.ts';

export interface Tuned {
  /** The fastest variant by the key of its choice, for choices that were measured whole. */
  readonly fastest: ReadonlyMap<string, string>;
  /** Milliseconds of the safe variant and of the fastest, by key. */
  readonly times: ReadonlyMap<string, { readonly safe: number; readonly fastest: number }>;
  /** Variants that gave other numbers than the safe one. */
  readonly wrong: ReadonlySet<string>;
}

/** Another variant must be so much faster, or a choice would follow the noise of a measurement. */
const GAIN = 1.05;
/** Rounds of a candidate; the best counts, because other work on a machine only ever adds time. */
const ROUNDS = 3;
/** A round lasts at least this long, so that the wait for the queue does not count; what takes long is timed once. */
const LEAST_MS = 5;
const LONG_MS = 100;
/**
 * Variants sum in the same order, so their numbers are equal where a driver does not join or split multiply-adds; where it
 * does, a sum of K products of numbers below 1 differs by some roundings of 2^-24 of the largest.
 */
const TOLERANCE = 1e-5;

/**
 * @param plans what will run; their choices are looked at
 * @param budget_ms for all of them together
 */
export async function tune(
  device: Device,
  plans: readonly Plan[],
  budget_ms: number,
  now: () => number = () => performance.now(),
): Promise<Tuned> {
  const fastest = new Map<string, string>();
  const times = new Map<string, { safe: number; fastest: number }>();
  const wrong = new Set<string>();
  const end = now() + budget_ms;
  for (const { key, variants } of heaviestFirst(plans, device.limits.tuning)) {
    if (now() > end) break;
    const [safe, ...others] = variants();
    if (others.length === 0) continue;
    const trial = await Trial.create(device, safe!.dispatch).catch(unlessFull);
    if (!trial) continue;
    try {
      const base = await trial.measure(safe!.dispatch);
      let best: { name: string; ms: number } = { name: safe!.name, ms: base.ms };
      for (const { name, dispatch } of others) {
        if (now() > end) return { fastest, times, wrong };
        if (wrong.has(name)) continue;
        const { ms, output } = await trial.measure(dispatch);
        if (!sameNumbers(output, base.output)) wrong.add(name);
        else if (ms < Math.min(best.ms, base.ms / GAIN)) best = { name, ms };
      }
      fastest.set(key, best.name);
      times.set(key, { safe: base.ms, fastest: best.ms });
    } catch (error) {
      unlessFull(error);
    } finally {
      trial.free();
    }
  }
  return { fastest, times, wrong };
}

/** Where memory is short the safe variant stays; the run itself will say what does not fit. */
function unlessFull(error: unknown): undefined {
  if (error instanceof EngineError && error.fault === 'out-of-memory') return undefined;
  throw error;
}

/** Choices of which nothing is known, by the work they do in all plans together. */
function heaviestFirst(plans: readonly Plan[], known: ReadonlyMap<string, string> | undefined): KernelChoice[] {
  const found = new Map<string, { choice: KernelChoice; flops: number }>();
  for (const { dispatches } of plans)
    for (const { dispatch, flops } of dispatches) {
      const { choice } = dispatch;
      if (!choice || known?.has(choice.key)) continue;
      const entry = found.get(choice.key);
      if (entry) entry.flops += flops;
      else found.set(choice.key, { choice, flops });
    }
  return [...found.values()].sort((a, b) => b.flops - a.flops).map(({ choice }) => choice);
}

/** Operands of one choice, the same for all its variants. */
class Trial {
  private constructor(
    private readonly device: Device,
    private readonly tensors: ReadonlyMap<string, DeviceTensor>,
  ) {}

  static create(device: Device, { bindings }: Dispatch): Promise<Trial> {
    return device.guarded(() => {
      const tensors = new Map<string, DeviceTensor>();
      for (const { name, operand, access, length } of bindings) {
        if (access === 'write') continue;
        const tensor = device.tensor({ shape: [length ?? operand.size], dtype: operand.type.dtype });
        tensors.set(name, tensor);
        fill(device, tensor);
      }
      return new Trial(device, tensors);
    });
  }

  async measure(dispatch: Dispatch): Promise<{ ms: number; output: Float32Array<ArrayBuffer> }> {
    const graph = new Graph();
    const inputs = [...this.tensors].map(([name, { type }]) =>
      graph.parameter(name, type.shape, { dtype: type.dtype }),
    );
    graph.output('output', graph.apply(alone(dispatch), inputs)[0]!);
    const arena = new Arena(this.device);
    const program = await Program.create(this.device, plan(graph, this.device.limits), this.tensors, arena);
    try {
      const output = (await program.run({})).get('output') as Float32Array<ArrayBuffer>;
      let ms = await program.time({});
      const times = Math.ceil(LEAST_MS / Math.max(ms, 1e-3));
      for (let round = 1; round < ROUNDS && ms < LONG_MS; round++) ms = Math.min(ms, await program.time({}, times));
      return { ms, output };
    } finally {
      program.free();
      arena.free();
    }
  }

  free(): void {
    for (const tensor of this.tensors.values()) this.device.freeTensor(tensor);
  }
}

/** An op that is one dispatch, with operands of its own. */
function alone(dispatch: Dispatch): OpDefinition {
  return {
    name: 'alone',
    packed: dispatch.bindings.map((_, i) => i),
    infer() {
      const { operand, length } = dispatch.bindings.find(({ access }) => access === 'write')!;
      return [{ shape: [length ?? operand.size], dtype: 'f32' }];
    },
    cost: () => ({ flops: dispatch.flops ?? 0, bytes: 0 }),
    kernel({ inputs, outputs: [out] }) {
      const left: Operand[] = [...inputs];
      const bindings = dispatch.bindings.map((binding) => ({
        ...binding,
        operand: binding.access === 'write' ? out! : left.shift()!,
        offset: 0,
      }));
      return [{ ...dispatch, bindings, choice: undefined }];
    },
  };
}

function sameNumbers(got: Float32Array, wanted: Float32Array): boolean {
  let largest = 0;
  for (const value of wanted) largest = Math.max(largest, Math.abs(value));
  return got.every((value, i) => Math.abs(value - wanted[i]!) <= TOLERANCE * largest);
}

/** Numbers of which a product of any length stays small; of packed weights, words of which every scale is such a number. */
function fill(device: Device, tensor: DeviceTensor): void {
  const { dtype } = tensor.type;
  const words = bytesOf(tensor.type) / 4;
  let state = 12345;
  const draw = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
  const block = new Int32Array(Math.min(words, 2 ** 16));
  const numbers = new Float32Array(block.buffer);
  for (let i = 0; i < block.length; i++) {
    if (dtype === 'f32') numbers[i] = draw() / 2 ** 31 - 1;
    // two halves between 0.5 and 1; every fourth pair below the normal ones, which a driver may take for zero
    else if (dtype === 'f16') block[i] = (i % 4 === 3 ? 0 : 0x38003800) | (draw() & 0x03ff03ff);
    // from 0.5 to 1 as an f32; as two halves both below 2 and normal, which random bits need not be
    else block[i] = 0x3f003800 | (draw() & 0x007f03ff);
  }
  for (let start = 0; start < words; start += block.length)
    device.write(tensor, block.subarray(0, Math.min(block.length, words - start)), start);
}
