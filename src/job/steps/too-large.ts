/** Whether a model can lie on this GPU at all: said from its config, before a byte of its weights is fetched. */
import { bytesOf, type Shape } from '../../engine/graph/types.ts';
import { InputError } from '../../formats/input-error.ts';
import type { ModelOptions } from '../../models/architectures/index.ts';
import type { Model } from '../../models/model.ts';

/**
 * A tensor is bound in one piece: one beyond what the adapter binds can't be computed with.
 * @param model its name and the shapes of its parameters; they lie on the device as `options.held` says, else as f32
 */
export function refuseTooLarge(
  model: Pick<Model<ModelOptions>, 'name' | 'parameters'> & { readonly options?: Pick<ModelOptions, 'held'> },
  limits: { readonly maxBufferSize: number; readonly maxStorageBufferBindingSize: number },
  role: 'teacher' | 'student',
): void {
  const most = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  const bytesIn = (name: string, shape: Shape): number =>
    bytesOf({ shape, dtype: model.options?.held?.get(name) ?? 'f32' });
  for (const [name, shape] of model.parameters) {
    const bytes = bytesIn(name, shape);
    if (bytes <= most) continue;
    const whole = gigabytes([...model.parameters].reduce((sum, [name, shape]) => sum + bytesIn(name, shape), 0));
    throw new InputError(
      model.name,
      name,
      `takes ${gigabytes(bytes)} in one piece (the whole model ${whole}), too much for this graphics adapter`,
      `a model whose largest tensor takes at most ${gigabytes(most)}: a smaller one, or one with fewer words` +
        (role === 'teacher'
          ? '; or this one behind a server, on a machine that it fits (teacher.kind "endpoint")'
          : ''),
    );
  }
}

const gigabytes = (bytes: number): string => `${Number((bytes / 1e9).toPrecision(2))} GB`;
