/**
 * Small pieces of WGSL that many kernels share.
 *
 * Shapes are static, so kernels carry them as constants: one source a shape, no uniforms, and compilers that can unroll.
 */
import type { Dispatch } from '../graph/types.ts';

const MAX_GROUPS = 65535;

/**
 * A grid of one thread an item, spread over x and y where x alone is over the limit of 65,535 workgroups.
 * `index` declares `let i: u32` from the builtin `gid` and returns from threads past the end.
 */
export function flatGrid(
  items: number,
  workgroupSize = 64,
): { workgroups: Dispatch['workgroups']; entry: string; index: string } {
  const groups = Math.max(1, Math.ceil(items / workgroupSize));
  const x = Math.min(groups, MAX_GROUPS);
  const y = Math.ceil(groups / x);
  return {
    workgroups: [x, y, 1],
    entry: `@compute @workgroup_size(${workgroupSize}) fn main(@builtin(global_invocation_id) gid: vec3<u32>)`,
    index: `let i = gid.x + gid.y * ${x * workgroupSize}u;\n  if (i >= ${items}u) { return; }`,
  };
}

/**
 * A grid of one workgroup an item (a row of a norm, a row of logits).
 * `index` declares `let row: u32` from the builtin `wid`; it is uniform, so barriers may follow.
 */
export function rowGrid(
  rows: number,
  workgroupSize = 64,
): { workgroups: Dispatch['workgroups']; entry: string; index: string } {
  const x = Math.max(1, Math.min(rows, MAX_GROUPS));
  const y = Math.max(1, Math.ceil(rows / x));
  return {
    workgroups: [x, y, 1],
    entry: `@compute @workgroup_size(${workgroupSize}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32)`,
    index: `let row = wid.x + wid.y * ${x}u;\n  if (row >= ${rows}u) { return; }`,
  };
}

/**
 * `fn sum_all(lid: u32, value: vec4<f32>) -> vec4<f32>`: the sum over a workgroup, for all its threads, in a fixed order.
 * Two levels and three barriers: drivers that compile barriers into coroutines (llvmpipe) take seconds over a tree's many.
 */
export function workgroupSum(threads: number): string {
  const groups = Math.min(16, threads);
  const each = threads / groups;
  return `
var<workgroup> sum_terms: array<vec4<f32>, ${threads}>;
var<workgroup> sum_groups: array<vec4<f32>, ${groups}>;
fn sum_all(lid: u32, value: vec4<f32>) -> vec4<f32> {
  workgroupBarrier();
  sum_terms[lid] = value;
  workgroupBarrier();
  if (lid < ${groups}u) {
    var sum = vec4<f32>();
    for (var i = lid * ${each}u; i < (lid + 1u) * ${each}u; i++) { sum += sum_terms[i]; }
    sum_groups[lid] = sum;
  }
  workgroupBarrier();
  var total = vec4<f32>();
  for (var i = 0u; i < ${groups}u; i++) { total += sum_groups[i]; }
  return total;
}`;
}

/** A number as an f32 literal that keeps every bit. */
export function f32(value: number): string {
  const rounded = Math.fround(value);
  if (!Number.isFinite(rounded)) throw new RangeError(`${value} is not a finite f32`);
  const text = String(rounded);
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}
