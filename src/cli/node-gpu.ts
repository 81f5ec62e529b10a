/**
 * WebGPU in Node: Dawn from the npm package `webgpu`, which lies in the folder of heavy tools and not in node_modules.
 * The Vulkan driver is chosen by the environment (VK_DRIVER_FILES) before this process starts.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { waitPolitely } from './wait-politely.ts';

const PLACES = [process.env.STILLROOM_TOOLS ?? '', join(process.cwd(), '.cache/tools')];

let gpu: GPU | undefined;

/** The GPU object of this process; also puts WebGPU's constants (GPUBufferUsage, ...) where code expects them. */
export async function nodeGpu(): Promise<GPU> {
  if (gpu) return gpu;
  const folder = PLACES.find((place) => place !== '' && existsSync(join(place, 'node_modules/webgpu')));
  if (!folder) throw new Error("the npm package 'webgpu' is missing: npm test or npm start bring it");
  const entry = pathToFileURL(join(folder, 'node_modules/webgpu/index.js')).href;
  const dawn = (await import(/* @vite-ignore */ entry)) as { create(flags: string[]): GPU; globals: object };
  Object.assign(globalThis, dawn.globals);
  waitPolitely();
  gpu = dawn.create([]);
  return gpu;
}
