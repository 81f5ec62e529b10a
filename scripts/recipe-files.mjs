// Writes what is generated from the recipe's schema: public/recipe.schema.json and docs/recipes.md.
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'vite';

// Vite's server only to import TypeScript: the schema's source is the same that the page runs.
const vite = await createServer({
  configFile: false,
  server: { middlewareMode: true, ws: false },
  appType: 'custom',
  logLevel: 'error',
});
try {
  const { recipeJsonSchemaText } = await vite.ssrLoadModule('/src/recipe/json-schema.ts');
  const { recipeDocs } = await vite.ssrLoadModule('/src/recipe/docs.ts');
  mkdirSync('public', { recursive: true });
  mkdirSync('docs', { recursive: true });
  writeFileSync('public/recipe.schema.json', recipeJsonSchemaText());
  writeFileSync('docs/recipes.md', recipeDocs());
} finally {
  await vite.close();
}
