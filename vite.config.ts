/**
 * How the page is built: `src/app` and `workers/` into `dist/page`, fit for a strict content security policy
 * (no inline script, nothing as a data: URL, nothing from elsewhere).
 */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  // Relative addresses, so that the built page also works from a folder of some other site (GitHub Pages, Spaces).
  base: './',
  plugins: [svelte()],
  worker: { format: 'es' },
  build: {
    outDir: 'dist/page',
    emptyOutDir: true,
    // WebGPU browsers are all younger than this.
    target: 'es2023',
    // The polyfill is an inline script; data: URLs need holes in the policy.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
