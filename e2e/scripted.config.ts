/**
 * The page with a scripted job in place of the real one (`npx vite --config e2e/scripted.config.ts`): to look at every
 * state of every screen without a GPU. Nothing of it is in the page that is built and served.
 */
import { fileURLToPath } from 'node:url';
import { defineConfig, mergeConfig, type Plugin } from 'vite';
import page from '../vite.config.ts';

const scripted: Plugin = {
  name: 'scripted-job',
  enforce: 'pre',
  resolveId(source, importer) {
    const fromPage = importer !== undefined && /\/src\/app\//.test(importer);
    if (fromPage && /\/job\.ts$/.test(source) && !source.includes('/job/')) {
      return fileURLToPath(new URL('./scripted-job.ts', import.meta.url));
    }
    return undefined;
  },
};

export default mergeConfig(
  page,
  defineConfig({ plugins: [scripted], build: { outDir: 'dist/scripted', emptyOutDir: true }, server: { port: 5199 } }),
);
