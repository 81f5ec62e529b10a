/** `node run.mjs CLI_FOLDER PAGE_FOLDER BROWSER_JSON run ...`: the built command line, with a page of the test's choice. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [cli, page, browser, ...argv] = process.argv.slice(2);
const { main } = await import(pathToFileURL(join(cli, 'main.js')).href);
const house = { root: process.cwd(), page: async () => page, browser: async () => JSON.parse(browser) };
process.exit(await main(argv, house));
