/** Draws the PNG icons of public/ out of public/icon.svg, in a browser: `node scripts/icons.mjs`. Their result is committed. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { findBrowser } from './browser.mjs';

const PAPER = '#fbf9f6';
const file = (name) => fileURLToPath(new URL(`../public/${name}`, import.meta.url));
const svg = readFileSync(file('icon.svg'), 'utf8');

/** [name, pixels, share of the width that the drawing takes]: a maskable icon keeps its edge free. */
const ICONS = [
  ['icon-192.png', 192, 0.78],
  ['icon-512.png', 512, 0.78],
  ['icon-maskable-512.png', 512, 0.56],
  ['apple-touch-icon.png', 180, 0.7],
];

const browser = await chromium.launch({
  executablePath: process.env.CHROME_PATH ?? (await findBrowser()).path,
  args: ['--no-sandbox'],
});
for (const [name, size, share] of ICONS) {
  const page = await browser.newPage({ viewport: { width: size, height: size } });
  const drawn = Math.round(size * share);
  await page.setContent(
    `<body style="margin:0;display:grid;place-content:center;height:100vh;background:${PAPER}">${svg.replace('<svg ', `<svg width="${drawn}" height="${drawn}" `)}</body>`,
  );
  await page.screenshot({ path: file(name) });
  await page.close();
}
await browser.close();
