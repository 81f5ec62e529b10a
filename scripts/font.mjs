/**
 * Makes the page's heading font out of @fontsource-variable/source-serif-4: Latin and Latin Extended-A, weight 600,
 * optical size 28 (headings are 20 to 34 px). 122 KB become 20 KB. Run once, its result is committed:
 *
 *   npm i --no-save subset-font@2.9.0 && node scripts/font.mjs
 */
import { readFileSync, writeFileSync } from 'node:fs';
import subsetFont from 'subset-font';

const from = new URL(
  '../node_modules/@fontsource-variable/source-serif-4/files/source-serif-4-latin-opsz-normal.woff2',
  import.meta.url,
);
const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => String.fromCodePoint(first + i));
const text = [...range(0x20, 0x7e), ...range(0xa0, 0x17f), ...'–—‘’“”…·×−→'].join('');
const font = await subsetFont(readFileSync(from), text, {
  targetFormat: 'woff2',
  variationAxes: { wght: 600, opsz: 28 },
});
writeFileSync(new URL('../src/app/fonts/source-serif-4-600.woff2', import.meta.url), font);
console.log(`${font.length} bytes`);
