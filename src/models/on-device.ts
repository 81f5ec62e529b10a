/**
 * A model's weights on the device, tensor by tensor: CPU memory never holds more than the largest one.
 */
import type { Shape } from '../engine/graph/types.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { InputError } from '../formats/input-error.ts';
import { pack } from '../formats/pack-weights.ts';
import type { Adapter } from '../formats/peft.ts';
import type { ModelOptions } from './architectures/index.ts';
import { adapterParameters, type Model } from './model.ts';

/**
 * @param place where a parameter shall lie (the trainer packs what it trains); undefined: a buffer of its own
 * @returns every base parameter by hub name, as `options.held` says, else f32
 */
export async function loadParameters(
  device: Device,
  model: Pick<Model, 'weights' | 'parameters'> & { readonly options?: Pick<ModelOptions, 'held'> },
  place: (name: string, shape: Shape) => DeviceTensor | undefined = () => undefined,
  onProgress?: (bytes: number, of: number) => void,
): Promise<Map<string, DeviceTensor>> {
  const tensors = new Map<string, DeviceTensor>();
  let total = 0;
  for (const name of model.parameters.keys()) total += model.weights.tensors.get(name)?.bytes ?? 0;
  let done = 0;
  for (const [name, shape] of model.parameters) {
    const data = await model.weights.readF32(name);
    const placed = place(name, shape);
    const dtype = model.options?.held?.get(name);
    if (placed) device.write(placed, data);
    const values = dtype ? pack(dtype, data) : data;
    tensors.set(name, placed ?? (await device.guarded(() => device.tensor({ shape, dtype: dtype ?? 'f32' }, values))));
    done += model.weights.tensors.get(name)?.bytes ?? 0;
    onProgress?.(done, total);
  }
  return tensors;
}

/**
 * An adapter beside the parameters that lie on the device: its pairs join them, what it trained whole overwrites the base's.
 * One that does not fit the model is refused by tensor.
 * @param name the adapter as the person named it
 * @param tensors the base's parameters, by hub name
 */
export function loadAdapter(
  device: Device,
  options: ModelOptions,
  adapter: Adapter,
  name: string,
  tensors: Map<string, DeviceTensor>,
): void {
  const refuse = (tensor: string, what: string, allowed: string) =>
    new InputError(name, `tensor ${tensor}`, what, allowed);
  const wanted = adapterParameters(options, adapter.config);
  for (const [tensor, shape] of wanted) {
    const found = adapter.tensors.get(tensor);
    if (found === undefined || String(found.shape) !== String(shape)) {
      const what = found === undefined ? 'it is missing' : `its shape is [${found.shape}]`;
      throw refuse(tensor, what, `[${shape}] by the model's config.json`);
    }
    placeTensor(device, tensors, tensor, found);
  }
  const unused = [...adapter.tensors.keys()].find((tensor) => !wanted.has(tensor));
  if (unused !== undefined) throw refuse(unused, 'nothing in the model uses it', 'tensors of the target modules');
}

/** Overwrites the tensor of this name, or adds one. */
export function placeTensor(
  device: Device,
  tensors: Map<string, DeviceTensor>,
  name: string,
  { shape, data }: { readonly shape: Shape; readonly data: Float32Array },
): void {
  const there = tensors.get(name);
  if (there) device.write(there, data);
  else tensors.set(name, device.tensor({ shape, dtype: 'f32' }, data));
}
