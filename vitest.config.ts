/** Unit and property tests: beside the code they test. The page in a real browser has a configuration of its own (e2e/). */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';
import { rememberedEnv } from './scripts/vulkan.mjs';

// `npx vitest` finds the driver that `npm test` found, unless one is named: the loader reads it when a test's process starts.
if (!process.env.VK_DRIVER_FILES) Object.assign(process.env, rememberedEnv());

export default defineConfig({
  plugins: [svelte()],
  test: {
    include: ['src/**/*.test.ts', 'workers/**/*.test.ts', 'scripts/**/*.test.mjs'],
    // A process each: a GPU device or a big allocation of one file cannot disturb another. Two: a CI machine has two cores.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ['default', './scripts/count-reporter.mjs'],
  },
});
