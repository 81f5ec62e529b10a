import { expect, it } from 'vitest';
import { MemoryKeep } from '../../formats/keep.ts';
import { parseRecipe } from '../../recipe/parse.ts';
import { keptImportance } from './importance.ts';

const recipe = (widths: object) =>
  parseRecipe(
    {
      student: { model: './m', compress: { init: 'importance', ...widths } },
      teacher: { kind: 'none' },
      data: { source: './rows.jsonl' },
      distill: { objective: 'none', alpha: 0 },
    },
    'recipe.json',
  );

async function kept(measured: object): Promise<MemoryKeep> {
  const keep = new MemoryKeep();
  await keep.put([{ key: 'importance.json', bytes: new TextEncoder().encode(JSON.stringify(measured)) }]);
  return keep;
}

/** As the first version kept it, which made a narrower norm of `norms`. */
const old = { layers: [0.1, 0.2], norms: {}, intermediate: [[1], [2]], heads: [[1], [2]] };

it('goes on with what an older version measured where the cut is still the same, and is refused where it is not', async () => {
  const keep = await kept(old);
  const same = await keptImportance(keep, recipe({ num_hidden_layers: 1, intermediate_size: 1 }), 'run');
  expect(same).toEqual({ ...old, normalized: {}, values: [] });
  await expect(keptImportance(keep, recipe({ hidden_size: 16 }), 'run')).rejects.toThrow(
    'run: student.compress: another version of Stillroom cut this run’s student',
  );
});

it('takes what this version measured, stamped or from before there was a stamp, and nothing of a later one', async () => {
  const now = { ...old, normalized: { norm: [1] }, values: [[1], [2]] };
  const narrow = recipe({ hidden_size: 16 });
  expect(await keptImportance(new MemoryKeep(), narrow, 'run')).toBeUndefined();
  expect(await keptImportance(await kept(now), narrow, 'run')).toEqual(now);
  expect(await keptImportance(await kept({ cut: 2, ...now }), narrow, 'run')).toEqual(now);
  await expect(keptImportance(await kept({ cut: 3, ...now }), narrow, 'run')).rejects.toThrow('another version');
});
