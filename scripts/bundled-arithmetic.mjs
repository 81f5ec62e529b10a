// Writes the data half of the bundled example: public/bundled/arithmetic/{tokenizer.json, tokenizer_config.json,
// chat_template.jinja, rows.jsonl, test.jsonl}. The teacher's weights come from their own command.
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'vite';

const vite = await createServer({
  configFile: false,
  server: { middlewareMode: true, ws: false },
  appType: 'custom',
  logLevel: 'error',
});
try {
  const { bundledFiles } = await vite.ssrLoadModule('/src/data/bundled.ts');
  for (const [path, text] of Object.entries(bundledFiles())) {
    const file = `public/bundled/${path}`;
    mkdirSync(file.slice(0, file.lastIndexOf('/')), { recursive: true });
    writeFileSync(file, text);
  }
} finally {
  await vite.close();
}
