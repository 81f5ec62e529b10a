/** Which engine op is written how: a new op is a line here. */
import type { OpLowering } from '../lowering.ts';
import { activation, add, addScaled, dropout, mul, scale, siluMul, softcap } from './arithmetic.ts';
import { attention, kvAppend } from './attention.ts';
import { embedding, matmul, positions } from './linear.ts';
import { layernorm, rmsnorm } from './norms.ts';
import { rotary } from './rotary.ts';
import { concat, split } from './split.ts';

export const lowerings: Readonly<Record<string, OpLowering>> = {
  activation,
  add,
  'add-scaled': addScaled,
  attention,
  concat,
  dropout,
  embedding,
  'kv-append': kvAppend,
  layernorm,
  matmul,
  mul,
  positions,
  rmsnorm,
  rotary,
  scale,
  'silu-mul': siluMul,
  softcap,
  split,
};
