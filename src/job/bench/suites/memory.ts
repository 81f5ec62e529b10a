/** What memory bounds: copying, and writing text a token at a time, which reads every weight once. */
import { Generator } from '../../../models/generate.ts';
import { baseParameters, countParameters } from '../../../models/model.ts';
import type { Bench } from '../suite.ts';
import { best } from '../measure.ts';
import { randomWeights, SMOLLM2 } from '../shapes.ts';

const COPIED = 2 ** 27;
/** As many as the rounds of a shader that only reads: the best of few meets a busy machine more often than the best of many. */
const WRITTEN = 24;

export async function memorySuite({ device, stream_gbps, summary, add }: Bench): Promise<void> {
  const [from, to] = [0, 1].map(() => device.buffer(COPIED, GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST));
  const copy = await best(async () => {
    const start = performance.now();
    const encoder = device.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(from!, 0, to!, 0, COPIED);
    device.gpu.queue.submit([encoder.finish()]);
    await device.idle();
    return performance.now() - start;
  });
  for (const buffer of [from!, to!]) device.free(buffer);
  add({ suite: 'memory', name: 'copy of a buffer', ms: copy, gbps: COPIED / copy / 1e6, bytes: COPIED });
  add({ suite: 'memory', name: 'a shader that only reads', gbps: stream_gbps });

  const tensors = await randomWeights(device, SMOLLM2);
  const generator = await Generator.create(device, SMOLLM2, tensors, { batch: 1, prompt: 16, capacity: 64 });
  const times: number[] = [];
  await generator.generate([Array.from({ length: 16 }, (_, i) => i)], {
    max_new_tokens: WRITTEN,
    temperature: 0,
    top_p: 1,
    seed: 0,
    eos_token_ids: [],
    onTokens: () => void times.push(performance.now()),
  });
  generator.free();
  for (const tensor of tensors.values()) device.freeTensor(tensor);
  const ms = Math.min(...times.slice(2).map((time, i) => time - times[i + 1]!));
  const bytes = 4 * countParameters(baseParameters(SMOLLM2));
  const gbps = bytes / ms / 1e6;
  summary.decode_fraction_of_stream = gbps / stream_gbps;
  add({
    suite: 'memory',
    name: 'decode, SmolLM2-135M shape, batch 1',
    ms,
    gbps,
    fraction_of_stream: gbps / stream_gbps,
    bytes,
    tokens_per_second: 1000 / ms,
  });
}
