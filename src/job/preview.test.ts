/** Rows as the page shows them, token by token. */
import { expect, it } from 'vitest';
import { MemorySource } from '../formats/byte-source.ts';
import { tinyEncoderFolder } from '../models/architectures/tiny-encoder.testing.ts';
import { parseRecipe } from '../recipe/parse.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import type { LocalFiles } from './host.ts';
import { previewOf } from './preview.ts';
import type { Preview } from './protocol.ts';
import { Sources } from './sources.ts';
import { diskFiles, memoryHost } from './testing.ts';

const disk = diskFiles('public/bundled');
const bert = await tinyEncoderFolder('bert');
const rows = (of: Record<string, string>): LocalFiles => ({
  has: (value) => value.startsWith('./'),
  folder: (value) => (value === './bert' ? bert : disk.folder(value)),
  file: async (value) => new MemorySource(value, new TextEncoder().encode(JSON.stringify(of))),
});

async function previewed(model: string, text: string): Promise<Preview> {
  const recipe: RecipeInput = { student: { model }, data: { source: './rows.jsonl', eval_fraction: 0 }, lora: null };
  const sources = new Sources(await memoryHost(), rows({ text }), 'recipe.json');
  return previewOf({ recipe: parseRecipe(recipe, 'recipe.json'), sources, recipeFile: 'recipe.json' });
}

const read = ({ samples: [row] }: Preview): string => row!.tokens!.map(({ text }) => text).join('');

it('an encoder’s words stand apart, and the gaps count', async () => {
  const preview = await previewed('./bert', 'w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12');
  expect(preview.masked).toBe(true);
  expect(read(preview)).toMatch(/^\[CLS\]( (w\d+|\[MASK\])){12} \[SEP\]$/);
  const counted = preview.samples[0]!.tokens!.filter(({ counts }) => counts);
  expect(counted.length).toBeGreaterThan(0);
  expect(counted.length).toBeLessThan(12);
});

it('a text that is learnt reads as it was written', async () => {
  const text = '12 + 30 = 42 and 7 + 7 = 14.';
  const preview = await previewed('./arithmetic', text);
  expect(preview.masked).toBeUndefined();
  expect(read(preview)).toContain(text);
});
