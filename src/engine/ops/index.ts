/** Every op's builder: what models and training are written with. */
export { accumulate } from './accumulate/accumulate.ts';
export { adamw } from './adamw/adamw.ts';
export { add } from './add/add.ts';
export { attention, type AttentionOptions } from './attention/attention.ts';
export { dropout } from './dropout/dropout.ts';
export { embedding } from './embedding/embedding.ts';
export { gelu, type GeluForm } from './gelu/gelu.ts';
export { kvAppend } from './kv-append/kv-append.ts';
export { lastRow } from './last-row/last-row.ts';
export { matmul } from './matmul/matmul.ts';
export { mul } from './mul/mul.ts';
export { rmsnorm } from './rmsnorm/rmsnorm.ts';
export { rotary } from './rotary/rotary.ts';
export { addScaled, scale, scaleBy } from './scale/scale.ts';
export { siluMul } from './silu-mul/silu-mul.ts';
export { fill, sumAll } from './sum-all/sum-all.ts';
export { sumLeading } from './sum-leading/sum-leading.ts';
export { sumSquares } from './sum-squares/sum-squares.ts';
