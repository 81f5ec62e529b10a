/**
 * Small pieces of WGSL that many kernels share.
 *
 * Shapes are static, so kernels carry them as constants: one source a shape, no uniforms, and compilers that can unroll.
 */
import type { Dispatch, Operand } from '../graph/types.ts';

/** Of one dimension of a grid, on every device. */
export const MAX_GROUPS = 65535;

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
    for (var i = lid * ${each}u; i < lid * ${each}u + ${rolled(each, 'lid')}; i++) { sum += sum_terms[i]; }
    sum_groups[lid] = sum;
  }
  workgroupBarrier();
  var total = vec4<f32>();
  for (var i = 0u; i < ${rolled(groups, 'lid')}; i++) { total += sum_groups[i]; }
  return total;
}`;
}

/**
 * A loop bound that compilers must not unroll. llvmpipe's unrolls whatever runs 32 times or less, and a load costs it 20 ms to
 * compile: 0.7 s for eight rounds of four loads, and minutes for a kernel with a few such loops.
 * @param index any index the kernel has; it is never 2^32 − 1
 */
export function rolled(count: number, index: string): string {
  return `select(${count}u, 0u, ${index} == 0xffffffffu)`;
}

/** A number as an f32 literal that keeps every bit. */
export function f32(value: number): string {
  const rounded = Math.fround(value);
  if (!Number.isFinite(rounded)) throw new RangeError(`${value} is not a finite f32`);
  const text = String(rounded);
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}

/**
 * `fn tanh_of(x: element) -> element` within two roundings everywhere: WGSL allows tanh an absolute error of 1e-5 and some
 * drivers give NaN from 89 on. A polynomial near 0 (Cephes' tanhf), 1 − 2 / (e^2|x| + 1) beyond.
 */
export function tanhWgsl(element: 'f32' | 'vec4<f32>'): string {
  return `fn tanh_of(x: ${element}) -> ${element} {
  let z = x * x;
  let near = x + x * z * ((((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z - 3.33332819422e-1);
  let far = 1.0 - 2.0 / (exp(2.0 * min(abs(x), ${element}(15.0))) + 1.0);
  return select(sign(x) * far, near, abs(x) < ${element}(0.625));
}
`;
}

/**
 * A kernel that makes each entry of `out` from the same entry of its operands, four at a time where the size allows.
 * @param expression of `name[i]` of same-sized operands and `name[0]` of `scalars`; must hold for f32 and vec4<f32>
 * @param declarations functions the expression uses; `value` in them stands for the type
 */
export function elementwise(
  label: string,
  out: Operand,
  operands: Readonly<Record<string, Operand>>,
  expression: string,
  { scalars = {}, declarations = '' }: { scalars?: Readonly<Record<string, Operand>>; declarations?: string } = {},
): Dispatch {
  const width = out.size % 4 === 0 ? 4 : 1;
  const element = width === 4 ? 'vec4<f32>' : 'f32';
  const grid = flatGrid(out.size / width);
  return {
    label: `${label} ${out.shape.join('x')}`,
    bindings: [
      ...Object.entries(operands).map(([name, operand]) => ({ name, operand, access: 'read' as const, element })),
      ...Object.entries(scalars).map(([name, operand]) => ({ name, operand, access: 'read' as const })),
      { name: 'out', operand: out, access: 'write' as const, element },
    ],
    code: `alias value = ${element};\n${declarations}${grid.entry} {
  ${grid.index}
  out[i] = ${expression};
}`,
    workgroups: grid.workgroups,
  };
}

/**
 * `fn sum_threads(lid, v) -> f32`: the sum of every thread's v, the same bits in each, in a fixed order. For workgroups of 64
 * threads in uniform control flow. Two levels of eight: a barrier costs more than the few loads of a wider step.
 */
export const SUM_OF_64_THREADS = reduction('sum_threads', (a, b) => `${a} + ${b}`);
export const MAX_OF_64_THREADS = reduction('max_threads', (a, b) => `max(${a}, ${b})`);

function reduction(name: string, combine: (a: string, b: string) => string): string {
  return `var<workgroup> ${name}_lanes: array<f32, 64>;
var<workgroup> ${name}_eights: array<f32, 8>;
fn ${name}(lid: u32, v: f32) -> f32 {
  workgroupBarrier();
  ${name}_lanes[lid] = v;
  workgroupBarrier();
  if (lid < 8u) {
    var part = ${name}_lanes[lid * 8u];
    for (var i = 1u; i < ${rolled(8, 'lid')}; i++) { part = ${combine('part', `${name}_lanes[lid * 8u + i]`)}; }
    ${name}_eights[lid] = part;
  }
  workgroupBarrier();
  var all = ${name}_eights[0];
  for (var i = 1u; i < ${rolled(8, 'lid')}; i++) { all = ${combine('all', `${name}_eights[i]`)}; }
  return all;
}
`;
}
