/**
 * The real thing: an embedding of 151,936 × 896 in f32, tied to the head, on a device that was asked for no more than WebGPU
 * promises (128 MiB a binding, 256 MiB a buffer). A step beside an adapter takes 0.6 GB on the device, a whole one 4 GB (and as much again beside it), each some minutes
 * on a software adapter, so it runs only where asked for: STILLROOM_LARGE=1 npx vitest run (this file).
 */
import { expect, it } from 'vitest';
import { nodeGpu } from '../cli/node-gpu.ts';
import { Device } from '../engine/run/device.ts';
import { MODELS, options as small, train } from './testing.ts';

const EMBEDDING = 'model.embed_tokens.weight';
const options = { ...small, vocab_size: 151936, hidden_size: 896, num_hidden_layers: 1, head_dim: 224 };

it.skipIf(!process.env.STILLROOM_LARGE).each(['an adapter with dropout', 'all weights'])(
  '%s: trains, with the bits of a device that binds it whole',
  async (name) => {
    const promised = { maxStorageBufferBindingSize: 2 ** 27, maxBufferSize: 2 ** 28 };
    const model = { ...MODELS[name]!, options };
    const run = async (limits: Partial<typeof promised>) => {
      const device = await Device.create(await nodeGpu(), limits);
      const start = performance.now();
      const { losses, weights } = await train(model, null, { on: device, steps: 1 });
      const seconds = (performance.now() - start) / 1000;
      console.log(`${name}, ${JSON.stringify(limits)}: loss ${losses[0]!.loss}, ${seconds.toFixed(0)} s`);
      console.log(`peak ${(device.peakBytes / 1e9).toFixed(2)} GB on the device`);
      device.destroy();
      return { losses, weights };
    };
    const got = await run(promised);
    expect(got.losses[0]!.loss).toBeGreaterThan(0);
    expect(got.weights.has(EMBEDDING)).toBe(name === 'all weights');
    const wanted = await run({});
    expect({ ...got.losses[0], grad_norm: 0 }).toEqual({ ...wanted.losses[0], grad_norm: 0 });
    for (const [weight, data] of wanted.weights)
      expect(Buffer.compare(bytesOf(got.weights.get(weight)!), bytesOf(data)), weight).toBe(0);
  },
  1_800_000,
);

const bytesOf = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
