/** `node probe-gpu.mjs WEBGPU_FOLDER`: the adapter that Dawn finds in this environment, as JSON; null for none. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const { create } = await import(pathToFileURL(join(process.argv[2], 'index.js')).href);
const adapter = await create([]).requestAdapter({ powerPreference: 'high-performance' });
const info = adapter?.info;
const answer = info
  ? { name: info.device || info.description || info.architecture || info.vendor, vendor: info.vendor }
  : null;
// Leaving at once: some drivers' own threads keep a process alive.
process.stdout.write(JSON.stringify(answer), () => process.exit(0));
