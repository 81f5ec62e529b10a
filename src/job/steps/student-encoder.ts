/**
 * Whether the student is an encoder, which its config.json says, and what a recipe cannot ask of one: refused in words
 * before a row is read.
 */
import { InputError } from '../../formats/input-error.ts';
import { readEncoder } from '../../models/architectures/index.ts';
import type { EncoderOptions } from '../../models/encoder.ts';
import { readConfig } from '../../models/model.ts';
import type { Recipe } from '../../recipe/schema.ts';
import type { RecipeContext } from '../context.ts';

/** undefined of a student that writes text. */
export async function studentEncoder(
  context: Pick<RecipeContext, 'recipe' | 'sources' | 'recipeFile'>,
): Promise<EncoderOptions | undefined> {
  const { model, revision } = context.recipe.student;
  const folder = await context.sources.model('student.model', model, revision);
  const config = await readConfig(folder);
  // which parts the file holds is asked for where its weights are opened
  const encoder = config && readEncoder(config, `${folder.name}/config.json`, new Set());
  if (encoder) refuseWhatWrites(context.recipe, context.recipeFile, model);
  return encoder;
}

function refuseWhatWrites(recipe: Recipe, file: string, model: string): void {
  const { student, teacher, data, evaluate, export: exported } = recipe;
  const asked: readonly [place: string, asked: boolean, what: string, allowed: string][] = [
    ['data.assistant_only_loss', data.assistant_only_loss, 'picks what is learned, and masking picks it for', 'false'],
    [
      'data.completion_only_loss',
      data.completion_only_loss === true,
      'picks what is learned, and masking picks it for',
      'null',
    ],
    [
      'teacher.kind',
      teacher.kind === 'endpoint' || teacher.kind === 'onnx',
      `is ${teacher.kind === 'onnx' ? 'an ONNX file' : 'a server'} that writes text, and teaches nothing to`,
      '"engine", "cache" or "none"',
    ],
    [
      'evaluate.tasks',
      evaluate.tasks.length > 0,
      'asks for answers, and none are written by',
      'no tasks: the loss is measured',
    ],
    ['export.gguf', exported.gguf.length > 0, 'has no form for', 'no GGUF'],
    ['student.add_tokens', student.add_tokens.length > 0, 'adds tokens, which is not built for', 'no tokens to add'],
  ];
  for (const [place, is, what, allowed] of asked) {
    if (is) throw new InputError(file, place, `${what} an encoder (${model})`, allowed);
  }
}
