/**
 * What is trained, packed: trainable tensors lie one behind the other in a few large buffers (as in ZeRO's and FSDP's flat
 * parameters), and so do their gradients and moments. A norm, an update or a checkpoint is then a handful of dispatches
 * or copies, however many tensors there are. A tensor that the device does not bind whole is a shard by itself, in windows.
 */
import { sizeOf, type Shape, type TensorType } from '../engine/graph/types.ts';
import { rowWindows } from '../engine/graph/windows.ts';
import { tensorWithin, type Device, type DeviceTensor } from '../engine/run/device.ts';
import { statesOf, unitsOf, type Optim, type Unit } from './optimizers.ts';

export interface Trainable {
  readonly name: string;
  readonly shape: Shape;
  /** Weight decay applies to it. */
  readonly decay: boolean;
}

export interface Shard {
  readonly decay: boolean;
  /** One axis, padding included; of a tensor in windows its own. */
  readonly shape: Shape;
  readonly tensors: readonly Trainable[];
  readonly parameter: DeviceTensor;
  /** Where gradients are summed; undefined where none outlives its update. */
  readonly gradient?: DeviceTensor;
  /** What the optimiser keeps, of all units of the shard one behind the other; words where they are not all f32. */
  readonly states: ReadonlyMap<string, DeviceTensor>;
}

/** Tensors start at multiples of 256 bytes, which is where a binding may start. */
const ALIGN = 64;
const aligned = (size: number): number => Math.ceil(size / ALIGN) * ALIGN;

export class FlatParameters {
  readonly shards: readonly Shard[];
  /** Windows of the shards by name. */
  readonly parameters = new Map<string, DeviceTensor>();
  readonly gradients = new Map<string, DeviceTensor>();
  /** Windows of what the optimiser keeps, `{state}.{unit}` and `{state}.{tensor}`. */
  readonly states = new Map<string, DeviceTensor>();
  /** f32 [1], where gradients are not summed: their squared norm, on its way to the updates. */
  readonly norm_squared?: DeviceTensor;

  private constructor(
    private readonly device: Device,
    readonly trainables: readonly Trainable[],
    optim: Optim,
    accumulates: boolean,
  ) {
    this.shards = layOut(trainables, device.limits).map(({ decay, shape, entries }, i) => {
      const make = (): DeviceTensor => device.tensor({ shape, dtype: 'f32' });
      const tensors = entries.map(({ trainable }) => trainable);
      const units = unitsOf(optim, i, { shape, tensors });
      const states = this.makeStates(i, optim, units);
      const shard: Shard = {
        decay,
        shape,
        tensors,
        parameter: make(),
        states,
        ...(accumulates && { gradient: make() }),
      };
      for (const { trainable, offset } of entries) {
        const { name } = trainable;
        const type = { shape: trainable.shape, dtype: 'f32' as const };
        this.parameters.set(name, tensorWithin(shard.parameter, type, offset));
        if (shard.gradient) this.gradients.set(name, tensorWithin(shard.gradient, type, offset));
        // what is kept of a whole shard has its shape: a tensor's part lies where the tensor does
        if (units[0]!.name === String(i))
          for (const [state, whole] of states) this.states.set(`${state}.${name}`, tensorWithin(whole, type, offset));
      }
      return shard;
    });
    if (!accumulates) this.norm_squared = device.tensor({ shape: [1], dtype: 'f32' });
  }

  /** @param options.accumulates gradients are summed before they are used */
  static async create(
    device: Device,
    trainables: readonly Trainable[],
    optim: Optim,
    options: { readonly accumulates: boolean } = { accumulates: true },
  ): Promise<FlatParameters> {
    return device.guarded(() => new FlatParameters(device, trainables, optim, options.accumulates));
  }

  private makeStates(shard: number, optim: Optim, units: readonly Unit[]): Map<string, DeviceTensor> {
    const windows = new Map<string, { unit: string; type: TensorType; offset: number }[]>();
    const sizes = new Map<string, number>();
    for (const unit of units) {
      for (const [name, type] of Object.entries(statesOf(optim, unit))) {
        const offset = sizes.get(name) ?? 0;
        windows.set(name, [...(windows.get(name) ?? []), { unit: unit.name, type, offset }]);
        sizes.set(name, offset + aligned(sizeOf(type.shape)));
      }
    }
    const packed = new Map<string, DeviceTensor>();
    for (const [name, places] of windows) {
      const dtype = places.every(({ type }) => type.dtype === 'f32') ? 'f32' : 'i32';
      const [alone] = places;
      const inWindows = places.length === 1 && rowWindows(alone!.type, this.device.limits).length > 1;
      const whole = this.device.tensor(inWindows ? alone!.type : { shape: [sizes.get(name)!], dtype });
      packed.set(name, whole);
      for (const { unit, type, offset } of places) {
        this.states.set(`${name}.${unit}`, tensorWithin(whole, type, offset));
      }
      this.states.set(`${name}.${shard}`, whole);
    }
    return packed;
  }

  /** Numbers that are trained. */
  get count(): number {
    return this.trainables.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  }

  free(): void {
    for (const { parameter, gradient, states } of this.shards) {
      for (const tensor of [parameter, ...states.values()]) this.device.freeTensor(tensor);
      if (gradient) this.device.freeTensor(gradient);
    }
    if (this.norm_squared) this.device.freeTensor(this.norm_squared);
  }
}

/** transformers' `get_decay_parameter_names`: biases and norms are not decayed. */
export function decays(name: string): boolean {
  return !/bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|(?:^|\.)ln_/i.test(name);
}

interface Layout {
  readonly decay: boolean;
  shape: Shape;
  readonly entries: { readonly trainable: Trainable; readonly offset: number }[];
}

function layOut(trainables: readonly Trainable[], limits: Device['limits']): Layout[] {
  const limit = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize) / 4;
  const shards: Layout[] = [];
  for (const decay of [true, false]) {
    let open: Layout | undefined;
    for (const trainable of trainables.filter((one) => one.decay === decay)) {
      const { shape } = trainable;
      if (rowWindows({ shape, dtype: 'f32' }, limits).length > 1) {
        shards.push({ decay, shape, entries: [{ trainable, offset: 0 }] });
        continue;
      }
      const size = aligned(sizeOf(shape));
      if (!open || sizeOf(open.shape) + size > limit) shards.push((open = { decay, shape: [0], entries: [] }));
      const offset = sizeOf(open.shape);
      open.entries.push({ trainable, offset });
      open.shape = [offset + size];
    }
  }
  return shards;
}
