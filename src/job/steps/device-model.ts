/** A model with its adapter on the device, ready to write text or to be looked into; whoever asks for it frees it. */
import type { Device, DeviceTensor } from '../../engine/run/device.ts';
import type { ModelOptions } from '../../models/architectures/index.ts';
import { openAnyModel, type Model } from '../../models/model.ts';
import type { DecoderAdapter } from '../../models/decoder.ts';
import { loadAdapter, loadParameters, placeTensor } from '../../models/on-device.ts';
import { fitted } from '../../models/untie.ts';
import type { RecipeContext } from '../context.ts';
import { loraSettings, openAdapter } from './adapter.ts';
import type { Student } from './student.ts';

export interface DeviceModel {
  readonly options: ModelOptions;
  readonly tensors: ReadonlyMap<string, DeviceTensor>;
  readonly adapter?: DecoderAdapter;
  free(): void;
}

type Progress = (bytes: number, of: number) => void;

/** The recipe's teacher; undefined where none runs in the engine. */
export async function openTeacher(context: RecipeContext): Promise<Model<ModelOptions> | undefined> {
  const { teacher } = context.recipe;
  if (teacher.kind !== 'engine') return undefined;
  return openAnyModel(await context.sources.model('teacher.model', teacher.model, teacher.revision));
}

export async function teacherOnDevice(
  context: RecipeContext,
  device: Device,
  model: Model<ModelOptions>,
  onProgress?: Progress,
): Promise<DeviceModel> {
  const { teacher } = context.recipe;
  const place = teacher.kind === 'engine' ? teacher.adapter : null;
  if (place === null) {
    const tensors = await loadParameters(device, model, undefined, onProgress);
    return deviceModel(device, model.options, tensors, undefined);
  }
  const whole = await fitted(model, await openAdapter(context, 'teacher.adapter', place), place);
  const tensors = await loadParameters(device, whole.model, undefined, onProgress);
  loadAdapter(device, whole.model.options, whole.adapter, place, tensors);
  return deviceModel(device, whole.model.options, tensors, {
    settings: loraSettings(whole.adapter.config, 0),
    trainable: false,
  });
}

/** @param trained what training has changed, by name; undefined: the student as it starts */
export async function studentOnDevice(
  device: Device,
  student: Student,
  trained?: ReadonlyMap<string, Float32Array>,
  onProgress?: Progress,
): Promise<DeviceModel> {
  const { model, adapter } = student;
  const tensors = await loadParameters(device, withTrained(model, trained), undefined, onProgress);
  for (const [name, { shape, data }] of adapter?.tensors ?? []) {
    const values = trained?.get(name) ?? data;
    await device.guarded(() => placeTensor(device, tensors, name, { shape, data: values }));
  }
  return deviceModel(
    device,
    model.options,
    tensors,
    adapter ? { settings: adapter.settings, trainable: false } : undefined,
  );
}

/** The model's weights, with those that were trained in their place. */
export function withTrained<M extends Pick<Model, 'weights'>>(
  model: M,
  trained: ReadonlyMap<string, Float32Array> | undefined,
): M {
  if (!trained) return model;
  const { name, tensors, metadata } = model.weights;
  const readF32 = async (tensor: string): Promise<Float32Array<ArrayBuffer>> => {
    const own = trained.get(tensor);
    return own ? Float32Array.from(own) : model.weights.readF32(tensor);
  };
  return { ...model, weights: { name, tensors, metadata, read: readF32, readF32 } };
}

function deviceModel(
  device: Device,
  options: ModelOptions,
  tensors: ReadonlyMap<string, DeviceTensor>,
  adapter: DecoderAdapter | undefined,
): DeviceModel {
  return {
    options,
    tensors,
    adapter,
    free() {
      for (const tensor of tensors.values()) device.freeTensor(tensor);
    },
  };
}
