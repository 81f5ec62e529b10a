/** The precisions by their names in transformers.js. */
import { fp16, fp32 } from './float.ts';
import { q4, q4f16 } from './q4.ts';
import { q8 } from './q8.ts';
import type { OnnxDtype, Precision } from './precision.ts';

export const precisions: Readonly<Record<OnnxDtype, Precision>> = { fp32, fp16, q8, q4, q4f16 };
