/**
 * What is trained, packed: trainable tensors lie one behind the other in a few large buffers (as in ZeRO's and FSDP's flat
 * parameters), and so do their gradients and moments. A norm, an update or a checkpoint is then a handful of dispatches
 * or copies, however many tensors there are.
 */
import { bytesOf, sizeOf, type Shape } from '../engine/graph/types.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import type { Moment } from './optimizers.ts';

export interface Trainable {
  readonly name: string;
  readonly shape: Shape;
  /** Weight decay applies to it. */
  readonly decay: boolean;
}

export interface Shard {
  readonly decay: boolean;
  /** Elements, padding included. */
  readonly size: number;
  readonly parameter: DeviceTensor;
  readonly gradient: DeviceTensor;
  /** What the optimiser keeps. */
  readonly moments: ReadonlyMap<Moment, DeviceTensor>;
}

/** Tensors start at multiples of 256 bytes, which is where a binding may start. */
const ALIGN = 64;

export class FlatParameters {
  readonly shards: readonly Shard[];
  /** Windows of the shards by name. */
  readonly parameters = new Map<string, DeviceTensor>();
  readonly gradients = new Map<string, DeviceTensor>();

  private constructor(
    private readonly device: Device,
    readonly trainables: readonly Trainable[],
    moments: readonly Moment[],
  ) {
    this.shards = layOut(trainables, device.limits.maxStorageBufferBindingSize / 4).map(({ decay, size, entries }) => {
      const make = (): DeviceTensor => device.tensor({ shape: [size], dtype: 'f32' });
      const kept = new Map(moments.map((moment) => [moment, make()]));
      const shard: Shard = { decay, size, parameter: make(), gradient: make(), moments: kept };
      for (const { trainable, offset } of entries) {
        const type = { shape: trainable.shape, dtype: 'f32' as const };
        this.parameters.set(trainable.name, { type, buffer: shard.parameter.buffer, offset: 4 * offset });
        this.gradients.set(trainable.name, { type, buffer: shard.gradient.buffer, offset: 4 * offset });
      }
      return shard;
    });
  }

  static async create(
    device: Device,
    trainables: readonly Trainable[],
    moments: readonly Moment[],
  ): Promise<FlatParameters> {
    return device.guarded(() => new FlatParameters(device, trainables, moments));
  }

  /** Numbers that are trained. */
  get count(): number {
    return this.trainables.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  }

  free(): void {
    for (const { parameter, gradient, moments } of this.shards) {
      for (const tensor of [parameter, gradient, ...moments.values()]) this.device.free(tensor.buffer);
    }
  }
}

/** transformers' `get_decay_parameter_names`: biases and norms are not decayed. */
export function decays(name: string): boolean {
  return !/bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|(?:^|\.)ln_/i.test(name);
}

function layOut(
  trainables: readonly Trainable[],
  limit: number,
): { decay: boolean; size: number; entries: { trainable: Trainable; offset: number }[] }[] {
  const shards: { decay: boolean; size: number; entries: { trainable: Trainable; offset: number }[] }[] = [];
  for (const decay of [true, false]) {
    let open: (typeof shards)[number] | undefined;
    for (const trainable of trainables.filter((one) => one.decay === decay)) {
      const size = Math.ceil(bytesOf({ shape: trainable.shape, dtype: 'f32' }) / 4 / ALIGN) * ALIGN;
      if (!open || open.size + size > limit) shards.push((open = { decay, size: 0, entries: [] }));
      open.entries.push({ trainable, offset: open.size });
      open.size += size;
    }
  }
  return shards;
}
