import { describe, expect, it } from 'vitest';
import { cutGrid, fromFirstGroup } from './long-dispatch.ts';

describe('a grid in parts', () => {
  it.each([
    { grid: [7, 5, 3], parts: 1 },
    { grid: [7, 5, 3], parts: 2 },
    { grid: [7, 5, 3], parts: 11 },
    { grid: [7, 5, 3], parts: 105 },
    { grid: [7, 5, 3], parts: 1e6 },
    { grid: [1, 1, 1], parts: 9 },
    { grid: [3, 65535, 2], parts: 100 },
  ] as const)('$grid in $parts has every workgroup once', ({ grid, parts }) => {
    const [X, Y, Z] = grid;
    const boxes = cutGrid(grid, parts);
    expect(boxes.length).toBeGreaterThanOrEqual(Math.min(parts, X * Y * Z));
    expect(boxes.reduce((sum, { count }) => sum + count[0] * count[1] * count[2], 0)).toBe(X * Y * Z);
    const seen = new Set<number>();
    for (const { first, count } of boxes) {
      expect(count.every((extent) => extent > 0)).toBe(true);
      // corners of boxes that are disjoint by their number and size: enough to find two that overlap
      for (const x of [first[0], first[0] + count[0] - 1])
        for (const y of [first[1], first[1] + count[1] - 1])
          for (const z of [first[2], first[2] + count[2] - 1]) {
            expect(x < X && y < Y && z < Z).toBe(true);
            seen.add(x + X * (y + Y * z));
          }
    }
    expect(seen.size).toBeGreaterThanOrEqual(boxes.length);
  });
});

describe('a kernel that counts from its first workgroup', () => {
  it('moves workgroups', () => {
    const code =
      'fn helper() {}\n@compute @workgroup_size(64) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {\n  out[wid.x] = 1.0;\n}';
    expect(fromFirstGroup(code)).toMatch(/part_wid: vec3<u32>.*\{\n {2}let wid = part_wid \+ first_group;\n/s);
  });

  it('moves threads by workgroups of their size', () => {
    const code = '@compute @workgroup_size(8, 4) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {\n}';
    expect(fromFirstGroup(code)).toContain('let gid = part_gid + first_group * vec3<u32>(8u, 4u, 1u);');
  });
});
