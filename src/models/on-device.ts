/**
 * A model's weights on the device, tensor by tensor: CPU memory never holds more than the largest one.
 */
import type { Shape } from '../engine/graph/types.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import { InputError } from '../formats/input-error.ts';
import type { Adapter } from '../formats/peft.ts';
import type { ModelOptions } from './architectures/index.ts';
import { adapterParameters, type Model } from './model.ts';

/**
 * @param place where a parameter shall lie (the trainer packs what it trains); undefined: a buffer of its own
 * @returns every base parameter by hub name, f32
 */
export async function loadParameters(
  device: Device,
  model: Pick<Model, 'weights' | 'parameters'>,
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
    if (placed) device.write(placed, data);
    tensors.set(name, placed ?? (await device.guarded(() => device.tensor({ shape, dtype: 'f32' }, data))));
    done += model.weights.tensors.get(name)?.bytes ?? 0;
    onProgress?.(done, total);
  }
  return tensors;
}

/**
 * An adapter's low-rank pairs on the device, by name; one that does not fit the model is refused by tensor.
 * @param name the adapter as the person named it
 */
export function loadAdapter(
  device: Device,
  options: ModelOptions,
  adapter: Adapter,
  name: string,
): Map<string, DeviceTensor> {
  const refuse = (tensor: string, what: string, allowed: string) =>
    new InputError(name, `tensor ${tensor}`, what, allowed);
  const placed = new Map<string, DeviceTensor>();
  for (const [tensor, shape] of adapterParameters(options, adapter.config)) {
    const found = adapter.tensors.get(tensor);
    if (found === undefined || String(found.shape) !== String(shape)) {
      const what = found === undefined ? 'it is missing' : `its shape is [${found.shape}]`;
      throw refuse(tensor, what, `[${shape}] by the model's config.json`);
    }
    placed.set(tensor, device.tensor({ shape, dtype: 'f32' }, found.data));
  }
  const unused = [...adapter.tensors.keys()].find((tensor) => !placed.has(tensor));
  if (unused !== undefined) throw refuse(unused, 'nothing in the model uses it', 'tensors of the target modules');
  return placed;
}
