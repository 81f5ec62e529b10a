/** Whether a model can lie on this GPU at all: said from its config, before a byte of its weights is fetched. */
import { sizeOf, type Shape } from '../../engine/graph/types.ts';
import { InputError } from '../../formats/input-error.ts';
import { countParameters } from '../../models/model.ts';

/**
 * A tensor is bound in one piece: one beyond what the adapter binds can't be computed with.
 * @param model its name and the shapes of its parameters; they lie on the device as f32
 */
export function refuseTooLarge(
  model: { readonly name: string; readonly parameters: ReadonlyMap<string, Shape> },
  limits: { readonly maxBufferSize: number; readonly maxStorageBufferBindingSize: number },
): void {
  const most = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  for (const [name, shape] of model.parameters) {
    const bytes = 4 * sizeOf(shape);
    if (bytes <= most) continue;
    const whole = gigabytes(4 * countParameters(model.parameters));
    throw new InputError(
      model.name,
      name,
      `takes ${gigabytes(bytes)} in one piece (the whole model ${whole}), too much for this graphics adapter`,
      `a model whose largest tensor takes at most ${gigabytes(most)}: a smaller one, or one with fewer words`,
    );
  }
}

const gigabytes = (bytes: number): string => `${Number((bytes / 1e9).toPrecision(2))} GB`;
