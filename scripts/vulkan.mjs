/**
 * A GPU for Node: npm `webgpu` (Dawn) and, on Linux, a Vulkan driver for it: whatever driver is there, else lavapipe where
 * root may install it, else the SwiftShader inside @sparticuz/chromium. macOS and Windows bring theirs (Metal, D3D12).
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { aptInstall, debianRelease, mayInstall } from './apt.mjs';
import { Complaint, hidden, root, run } from './house.mjs';
import { ensureTool, toolsFolder } from './tools.mjs';
import { unpackTarBrotli } from './unpack.mjs';

/**
 * lavapipe compiles a kernel in a third of the time for vectors of four, and runs it about as fast: a pass with gradients over
 * a tiny llama, nothing cached, takes 27 s of CPU instead of 73 (mesa 25, AVX2).
 */
const LAVAPIPE = { LP_NATIVE_VECTOR_WIDTH: '128' };

/**
 * @returns {Promise<{ env: Record<string, string>, what: string, adapter: string }>} `env` must stand before the process
 * starts that loads the driver
 */
export async function findVulkan() {
  const webgpu = await ensureTool('webgpu');
  const remembered = join(toolsFolder(), 'vulkan.json');
  const key = JSON.stringify([
    process.platform,
    drivers(),
    process.env.VK_DRIVER_FILES,
    process.env.STILLROOM_HIDE,
    LAVAPIPE,
  ]);
  if (existsSync(remembered)) {
    const { key: then, ...choice } = JSON.parse(readFileSync(remembered, 'utf8'));
    if (then === key) return choice;
  }
  const choice = await choose(webgpu);
  writeFileSync(remembered, JSON.stringify({ key, ...choice }, null, 2));
  return choice;
}

/**
 * The driver for tests of kernels: SwiftShader where it can be had, although lavapipe computes faster. A test compiles many
 * kernels and runs each once, and SwiftShader compiles about twenty times faster.
 */
export async function findTestVulkan() {
  if (process.platform === 'linux' && process.arch === 'x64' && !hidden('chromium-package')) {
    const env = await swiftShader();
    const adapter = await probe(await ensureTool('webgpu'), env);
    if (adapter) return { env, what: 'SwiftShader of @sparticuz/chromium', adapter };
  }
  return findVulkan();
}

/** The environment of the tests' driver, else of the last choice. For tools that are started without `npm test`. */
export function rememberedEnv() {
  if (existsSync(swiftShaderFolder())) return swiftShaderEnv();
  const remembered = join(toolsFolder(), 'vulkan.json');
  return existsSync(remembered) ? JSON.parse(readFileSync(remembered, 'utf8')).env : {};
}

async function choose(webgpu) {
  if (!hidden('vulkan')) {
    const adapter = await probe(webgpu, {});
    if (adapter) return { env: settingsOf(adapter), what: 'the installed driver', adapter };
  }
  if (process.platform === 'linux') {
    if (mayInstall() && (await installLavapipe())) {
      const adapter = await probe(webgpu, {});
      if (adapter) return { env: settingsOf(adapter), what: 'lavapipe, installed just now', adapter };
    }
    if (process.arch === 'x64' && !hidden('chromium-package')) {
      const env = await swiftShader();
      const adapter = await probe(webgpu, env);
      if (adapter) return { env, what: 'SwiftShader of @sparticuz/chromium', adapter };
    }
  }
  throw new Complaint(
    process.platform === 'linux'
      ? 'no Vulkan driver was found; run: sudo apt-get install mesa-vulkan-drivers (Debian 12: from bookworm-backports)'
      : 'no GPU was found for Node; the page in a browser may still find one: npm start',
  );
}

const settingsOf = (adapter) => (/llvmpipe/.test(adapter) ? LAVAPIPE : {});

async function probe(webgpu, env) {
  const { code, output } = await run(process.execPath, [join(root, 'scripts/probe-gpu.mjs'), webgpu], {
    quiet: true,
    env,
    timeout: 60_000,
  });
  const answer = code === 0 ? JSON.parse(/(null|\{[^\n]*\})\s*$/.exec(output)?.[1] ?? 'null') : null;
  return answer?.name;
}

/** The driver manifests that are installed: when they change, the choice is made anew. */
function drivers() {
  const folders = ['/usr/share/vulkan/icd.d', '/usr/local/share/vulkan/icd.d', '/etc/vulkan/icd.d'];
  return folders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder) : []));
}

/** Debian 12's own mesa (22.3) is too old for Dawn. */
async function installLavapipe() {
  const release = debianRelease();
  return aptInstall(['mesa-vulkan-drivers', 'libvulkan1'], { backports: release === 'bookworm' ? release : undefined });
}

const swiftShaderFolder = () => join(toolsFolder(), 'swiftshader');

async function swiftShader() {
  const folder = swiftShaderFolder();
  if (!existsSync(folder)) {
    const archive = join(await ensureTool('chromium'), 'bin/swiftshader.tar.br');
    mkdirSync(toolsFolder(), { recursive: true });
    const aside = mkdtempSync(join(toolsFolder(), 'swiftshader-'));
    unpackTarBrotli(archive, aside);
    rmSync(folder, { recursive: true, force: true });
    renameSync(aside, folder);
  }
  return swiftShaderEnv();
}

function swiftShaderEnv() {
  const folder = swiftShaderFolder();
  return {
    LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
    VK_DRIVER_FILES: join(folder, 'vk_swiftshader_icd.json'),
  };
}
