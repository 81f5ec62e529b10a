/** Which engine op is written how: a new op is a line here. */
import type { OpLowering } from '../lowering.ts';
import { add, addScaled, dropout, gelu, mul, scale, siluMul } from './arithmetic.ts';
import { attention, kvAppend } from './attention.ts';
import { embedding, matmul, positions } from './linear.ts';
import { layernorm, rmsnorm } from './norms.ts';
import { rotary } from './rotary.ts';
import { concat, split } from './split.ts';

export const lowerings: Readonly<Record<string, OpLowering>> = {
  add,
  'add-scaled': addScaled,
  attention,
  concat,
  dropout,
  embedding,
  gelu,
  'kv-append': kvAppend,
  layernorm,
  matmul,
  mul,
  positions,
  rmsnorm,
  rotary,
  scale,
  'silu-mul': siluMul,
  split,
};
