/**
 * How the page is built: `src/app` and `workers/` into `dist/page`, fit for a strict content security policy
 * (no inline script, nothing as a data: URL, nothing from elsewhere).
 */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';
import { VitePWA } from 'vite-plugin-pwa';

/**
 * Works without a network after the first visit, and never reloads by itself: a new version waits for the person, and the
 * page does not offer it while a run is on. What the first screen and its steps need is kept at once; the engine, ONNX
 * Runtime and the bundled example when they are first fetched.
 */
const offline = VitePWA({
  registerType: 'prompt',
  // The page registers it (src/app/state/offline.svelte.ts); no inline script.
  injectRegister: false,
  // Whoever installs the page is online then, and the system keeps its icon.
  includeManifestIcons: false,
  manifest: {
    id: './',
    name: 'Stillroom',
    short_name: 'Stillroom',
    description: 'Distil a small language model of your own in the browser. Nothing leaves the machine.',
    start_url: './',
    scope: './',
    display: 'standalone',
    background_color: '#fbf9f6',
    theme_color: '#fbf9f6',
    icons: [
      { src: 'icon.svg', sizes: 'any', type: 'image/svg+xml' },
      { src: 'icon-192.png', sizes: '192x192', type: 'image/png' },
      { src: 'icon-512.png', sizes: '512x512', type: 'image/png' },
      { src: 'icon-maskable-512.png', sizes: '512x512', type: 'image/png', purpose: 'maskable' },
    ],
  },
  workbox: {
    // Also where NODE_ENV says otherwise: the other mode logs, and weighs six times as much.
    mode: 'production',
    sourcemap: false,
    // From the first visit on: what that fetches is kept too. Nothing is reloaded for it.
    clientsClaim: true,
    globPatterns: ['index.html', 'theme.js', 'icon.svg', 'assets/*.{js,css,woff2}'],
    globIgnores: ['**/*worker*', 'assets/ort*'],
    // A run's command line is never answered from a cache.
    navigateFallbackDenylist: [/\/__bridge\//],
    runtimeCaching: [
      {
        urlPattern: ({ url, sameOrigin }) => sameOrigin && /\/assets\/[^/]+$/.test(url.pathname),
        handler: 'CacheFirst',
        options: { cacheName: 'parts', expiration: { maxEntries: 80 } },
      },
      {
        urlPattern: ({ url, sameOrigin }) => sameOrigin && url.pathname.includes('/bundled/'),
        handler: 'StaleWhileRevalidate',
        options: { cacheName: 'bundled' },
      },
    ],
  },
});

export default defineConfig({
  // Relative addresses, so that the built page also works from a folder of some other site (GitHub Pages, Spaces).
  base: './',
  plugins: [svelte(), offline],
  worker: { format: 'es' },
  build: {
    outDir: 'dist/page',
    emptyOutDir: true,
    // WebGPU browsers are all younger than this.
    target: 'es2023',
    // light-dark() and oklch() as they are written: lowered, mixtures of colours come out pink.
    cssTarget: ['chrome123', 'firefox128', 'safari17.5'],
    // The polyfill is an inline script; data: URLs need holes in the policy.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
