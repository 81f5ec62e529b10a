/** How the command line is built: src/cli/main.ts for Node into dist/cli, a chunk a command; packages stay in node_modules. */
import { defineConfig } from 'vite';

export default defineConfig({
  publicDir: false,
  build: {
    ssr: 'src/cli/main.ts',
    outDir: 'dist/cli',
    emptyOutDir: true,
    target: 'node20.19',
    // Kept readable: a stack trace should say something.
    minify: false,
    sourcemap: true,
    reportCompressedSize: false,
  },
});
