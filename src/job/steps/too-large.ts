/** Whether a model can lie on this GPU at all: said from its config, before a byte of its weights is fetched. */
import { bytesOf, type TensorType } from '../../engine/graph/types.ts';
import { rowWindows, type SizeLimits } from '../../engine/graph/windows.ts';
import { InputError } from '../../formats/input-error.ts';
import type { ModelOptions } from '../../models/architectures/index.ts';
import { decoderByConfig, type Model } from '../../models/model.ts';
import type { RecipeContext } from '../context.ts';
import type { Sources } from '../sources.ts';

/**
 * WebGPU doesn't say how much memory there is; what one buffer may hold is the nearest figure to it. Weights that fill more
 * than so many of them are refused before they are fetched; what does not fit though it passes here is said by the device.
 */
const MOST_BUFFERS = 16;

/**
 * The recipe's decoders by their config.json alone, before a file of weights is asked for. A student that is cut or packed is
 * another size than its config says, and is judged when that is known.
 */
export async function refuseTooLargeByConfig(
  { recipe, sources }: { readonly recipe: RecipeContext['recipe']; readonly sources: Pick<Sources, 'model'> },
  limits: SizeLimits,
): Promise<void> {
  const { student, teacher, distill } = recipe;
  if (!student.compress && student.dtype === 'f32') {
    const model = await decoderByConfig(await sources.model('student.model', student.model, student.revision));
    if (model) refuseTooLarge(model, limits, 'student');
  }
  if (teacher.kind === 'engine' && distill.objective !== 'none') {
    const model = await decoderByConfig(await sources.model('teacher.model', teacher.model, teacher.revision));
    if (model) refuseTooLarge(model, limits, 'teacher');
  }
}

/**
 * A tensor larger than the adapter binds lies in windows of rows; one whose rows are too long for that can't be computed with.
 * @param model its name and the shapes of its parameters; they lie on the device as `options.held` says, else as f32
 */
export function refuseTooLarge(
  model: Pick<Model<ModelOptions>, 'name' | 'parameters'> & { readonly options?: Pick<ModelOptions, 'held'> },
  limits: SizeLimits,
  role: 'teacher' | 'student',
): void {
  const elsewhere =
    role === 'teacher' ? '; or this one behind a server, on a machine that it fits (teacher.kind "endpoint")' : '';
  const most = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  let whole = 0;
  for (const [name, shape] of model.parameters) {
    const type: TensorType = { shape, dtype: model.options?.held?.get(name) ?? 'f32' };
    const bytes = bytesOf(type);
    whole += bytes;
    if (bytes <= most || rowWindows(type, limits).length > 1) continue;
    throw new InputError(
      model.name,
      name,
      `64 of its ${gigabytes(bytes)} of rows are too much for this graphics adapter`,
      `a model of which 64 rows take at most ${gigabytes(most)}${elsewhere}`,
    );
  }
  const fits = MOST_BUFFERS * limits.maxBufferSize;
  if (whole <= fits) return;
  throw new InputError(
    model.name,
    'its weights',
    `they take ${gigabytes(whole)}, too much for this graphics adapter`,
    `a model of at most ${gigabytes(fits)} (${MOST_BUFFERS} of the adapter’s largest buffers)${elsewhere}`,
  );
}

const gigabytes = (bytes: number): string => `${Number((bytes / 1e9).toPrecision(2))} GB`;
