/**
 * Dispatches that would hold the GPU too long, in parts. A driver's watchdog resets a device whose dispatch runs for seconds
 * (Windows: two), and a submit can be cut between dispatches only. WebGPU has no first workgroup of a dispatch, so a kernel
 * that runs in parts adds one that it finds in a uniform; every workgroup does exactly what it did before, in any number
 * of parts, so the bits stay.
 */

type Grid = readonly [number, number, number];

/** A box of a grid of workgroups. */
export interface GridPart {
  readonly first: Grid;
  readonly count: Grid;
}

/** Cuts a grid into at least `parts` boxes of nearly the same size, or as many as it has workgroups; longest axis first. */
export function cutGrid(grid: Grid, parts: number): GridPart[] {
  let boxes: GridPart[] = [{ first: [0, 0, 0], count: grid }];
  const axes = [0, 1, 2].sort((a, b) => grid[b]! - grid[a]!);
  for (const axis of axes) {
    const pieces = Math.min(grid[axis]!, Math.ceil(parts / boxes.length));
    if (pieces <= 1) continue;
    const bounds = Array.from({ length: pieces + 1 }, (_, i) => Math.round((i * grid[axis]!) / pieces));
    boxes = boxes.flatMap((box) =>
      bounds.slice(1).map((end, i) => ({
        first: replaced(box.first, axis, bounds[i]!),
        count: replaced(box.count, axis, end - bounds[i]!),
      })),
    );
  }
  return boxes;
}

/** Where kernels find the first workgroup of their part; with a dynamic offset. */
const FIRST_GROUP = '@group(1) @binding(0) var<uniform> first_group: vec3<u32>;\n';

/**
 * The same kernel with its workgroups counted from `first_group`. Kernels name what they ask for alike: `wid` is the
 * workgroup, `gid` the thread of the grid; nothing else depends on where a workgroup lies.
 */
export function fromFirstGroup(code: string): string {
  const entry = /@workgroup_size\(([^)]*)\)\s*fn main\(([^{]*)\)\s*\{/.exec(code);
  if (!entry) throw new RangeError('a kernel without an entry point `main`');
  const size = [...entry[1]!.split(',').map((extent) => `${extent.trim()}u`), '1u', '1u'].slice(0, 3);
  const lines: string[] = [];
  const head = entry[0]
    .replace(/\bwid: vec3<u32>/, () => {
      lines.push('let wid = part_wid + first_group;');
      return 'part_wid: vec3<u32>';
    })
    .replace(/\bgid: vec3<u32>/, () => {
      lines.push(`let gid = part_gid + first_group * vec3<u32>(${size.join(', ')});`);
      return 'part_gid: vec3<u32>';
    });
  return FIRST_GROUP + code.replace(entry[0], () => `${head}\n  ${lines.join('\n  ')}`);
}

function replaced(grid: Grid, axis: number, value: number): Grid {
  return grid.map((old, i) => (i === axis ? value : old)) as unknown as Grid;
}
