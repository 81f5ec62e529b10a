/**
 * A model's weights on the device, tensor by tensor: CPU memory never holds more than the largest one.
 */
import type { Shape } from '../engine/graph/types.ts';
import type { Device, DeviceTensor } from '../engine/run/device.ts';
import type { Model } from './model.ts';

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
