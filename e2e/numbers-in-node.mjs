/** `node numbers-in-node.mjs`: what e2e/numbers.ts finds on Node's GPU, as JSON. */
import { createServer } from 'vite';

const settings = { configFile: false, logLevel: 'error', appType: 'custom', optimizeDeps: { noDiscovery: true } };
const server = await createServer({
  ...settings,
  server: { middlewareMode: true, hmr: false, watch: null, ws: false },
});
const { nodeGpu } = await server.ssrLoadModule('/src/cli/node-gpu.ts');
const { numbers } = await server.ssrLoadModule('/e2e/numbers.ts');
process.stdout.write(JSON.stringify(await numbers(await nodeGpu())), () => process.exit(0));
