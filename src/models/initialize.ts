/**
 * Random starting weights, as a pure function of seed and name: transformers' `_init_weights` for a model from scratch,
 * PEFT's for an adapter. Philox gives the bits, Box and Muller (1958) the normal distribution.
 */
import { philox } from '../engine/ops/philox.ts';
import { sizeOf, type Shape } from '../engine/graph/types.ts';

/** Weights ~ N(0, initializer_range²), norms 1, biases 0. */
export function initialWeight(
  name: string,
  shape: Shape,
  seed: number,
  initializer_range = 0.02,
): Float32Array<ArrayBuffer> {
  const data = new Float32Array(sizeOf(shape));
  if (name.endsWith('.bias')) return data;
  if (shape.length === 1) return data.fill(1);
  return normal(data, seed, name, initializer_range);
}

/** B is zero, so that training starts from the base; A ~ U(−√(1/in), √(1/in)) (PEFT's `init_lora_weights: true`). */
export function initialLora(name: string, shape: Shape, seed: number): Float32Array<ArrayBuffer> {
  const data = new Float32Array(sizeOf(shape));
  if (name.endsWith('.lora_B.weight')) return data;
  const bound = 1 / Math.sqrt(shape[1] as number);
  const key = hashOf(name);
  for (let i = 0; i < data.length; i += 4) {
    philox([i / 4, 0, 0, key], [seed, 1]).forEach((word, j) => {
      if (i + j < data.length) data[i + j] = (word / 2 ** 31 - 1) * bound;
    });
  }
  return data;
}

function normal(
  data: Float32Array<ArrayBuffer>,
  seed: number,
  name: string,
  deviation: number,
): Float32Array<ArrayBuffer> {
  const key = hashOf(name);
  for (let i = 0; i < data.length; i += 4) {
    const words = philox([i / 4, 0, 0, key], [seed, 2]);
    for (let pair = 0; pair < 2; pair++) {
      const radius = deviation * Math.sqrt(-2 * Math.log((words[2 * pair]! + 0.5) / 2 ** 32));
      const angle = (2 * Math.PI * words[2 * pair + 1]!) / 2 ** 32;
      if (i + 2 * pair < data.length) data[i + 2 * pair] = radius * Math.cos(angle);
      if (i + 2 * pair + 1 < data.length) data[i + 2 * pair + 1] = radius * Math.sin(angle);
    }
  }
  return data;
}

/** FNV-1a, 32 bits: names differ, so their numbers do. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}
