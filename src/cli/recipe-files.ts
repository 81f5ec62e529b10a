/** Which of a recipe's models and sources are files of this machine, and whether they are there. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { InputError } from '../formats/input-error.ts';
import { hubName } from '../job/hub.ts';
import type { Recipe } from '../recipe/schema.ts';

/** Everything in a recipe that names a model, an adapter, a cache or rows, with its place. */
function sources(recipe: Recipe): { place: string; value: string | null }[] {
  const { student, teacher, data, evaluate } = recipe;
  const found: { place: string; value: string | null }[] = [
    { place: 'student.model', value: student.model },
    { place: 'student.adapter', value: student.adapter },
    { place: 'data.source', value: data.source },
  ];
  if (teacher.kind === 'engine' || teacher.kind === 'onnx')
    found.push({ place: 'teacher.model', value: teacher.model });
  if (teacher.kind === 'engine') found.push({ place: 'teacher.adapter', value: teacher.adapter });
  if (teacher.kind === 'cache') found.push({ place: 'teacher.source', value: teacher.source });
  evaluate.tasks.forEach((task, index) => found.push({ place: `evaluate.tasks.${index}.source`, value: task.source }));
  return found;
}

const isElsewhere = (value: string): boolean => /^(bundled:|https?:\/\/)/.test(value);
const isHubName = (value: string): boolean =>
  hubName(value) !== undefined && !/\.(jsonl?|csv|tsv|txt|parquet|gguf|safetensors|onnx|cache)$/.test(value);

/**
 * The values of a recipe that are paths (relative to its folder), each of which is there.
 * A word that could be a hub's name is a path where there is such a file or folder.
 */
export function localFiles(recipe: Recipe, file: string, folder: string): string[] {
  const local = new Set<string>();
  for (const { place, value } of sources(recipe)) {
    if (value === null || isElsewhere(value)) continue;
    if (existsSync(path.resolve(folder, value))) local.add(value);
    else if (!isHubName(value)) {
      const allowed = 'a path relative to the recipe, a hub name (hub: or modelscope:), bundled:NAME, or a URL';
      throw new InputError(file, place, `there is no ${path.resolve(folder, value)}`, allowed);
    }
  }
  return [...local];
}
