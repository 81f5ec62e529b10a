import { describe, expect, it } from 'vitest';
import { plan } from '../plan/plan.ts';
import { floats, testDevice } from '../testing.ts';
import { activation } from '../ops/index.ts';
import { Device, tensorWithin } from '../run/device.ts';
import { nodeGpu } from '../../cli/node-gpu.ts';
import { Graph } from './graph.ts';
import { rowWindows } from './windows.ts';

const promised = { maxStorageBufferBindingSize: 2 ** 27, maxBufferSize: 2 ** 28 };

describe('windows of rows', () => {
  it('are as few as there can be, of about the same size, at multiples of 64', () => {
    const table = { shape: [151936, 896], dtype: 'f32' } as const;
    expect(rowWindows(table, promised)).toEqual([
      ...[0, 1, 2, 3].map((i) => ({ start: 30400 * i, rows: 30400 })),
      { start: 121600, rows: 30336 },
    ]);
    expect(rowWindows({ ...table, dtype: 'int8' }, promised)).toEqual([
      { start: 0, rows: 75968 },
      { start: 75968, rows: 75968 },
    ]);
    expect(rowWindows({ ...table, dtype: 'int4' }, promised)).toEqual([{ start: 0, rows: 151936 }]);
    // 77 MB at 0.5625 bytes a number, where a binding holds 43
    const less = { ...promised, maxStorageBufferBindingSize: 41 * 2 ** 20 };
    for (const dtype of ['nf4', 'int4_64', 'uint4_64'] as const)
      expect(rowWindows({ ...table, dtype }, less), dtype).toEqual([
        { start: 0, rows: 75968 },
        { start: 75968, rows: 75968 },
      ]);
    expect(rowWindows({ shape: [2, 100, 896], dtype: 'f32' }, { ...promised, maxBufferSize: 64 * 4 * 896 })).toEqual([
      { start: 0, rows: 64 },
      { start: 64, rows: 64 },
      { start: 128, rows: 64 },
      { start: 192, rows: 8 },
    ]);
  });

  it('begin with a block of 256 numbers where the device binds as many rows', () => {
    const limits = (rows: number, width: number) => ({ ...promised, maxBufferSize: 4 * rows * width });
    const starts = (rows: number, width: number): number[] =>
      rowWindows({ shape: [600, width], dtype: 'f32' }, limits(rows, width)).map(({ start }) => start);
    expect(starts(200, 4)).toEqual([0, 192, 384, 576]);
    expect(starts(200, 6)).toEqual([0, 128, 256, 384, 512]);
    expect(starts(300, 5)).toEqual([0, 256, 512]);
    expect(starts(200, 5)).toEqual([0, 192, 384, 576]);
  });

  it('are written and read as one tensor, and as parts of another', async () => {
    const device = await Device.create(await nodeGpu(), { maxStorageBufferBindingSize: 65536, maxBufferSize: 65536 });
    const { data } = floats([300, 100], 1);
    const whole = device.tensor({ shape: [300, 100], dtype: 'f32' }, data as Float32Array);
    expect(whole.pieces.map(({ words }) => words)).toEqual([12800, 12800, 4400]);
    expect(await device.read(whole)).toEqual(data);
    const part = tensorWithin(whole, { shape: [150, 100], dtype: 'f32' }, 6400);
    expect(await device.read(part)).toEqual(data.subarray(6400, 21400));
    device.write(part, new Float32Array(7000), 6000);
    expect(await device.read(whole)).toEqual(data.map((value, i) => (i >= 12400 && i < 19400 ? 0 : value)));
    device.freeTensor(whole);
    expect(device.liveBytes).toBe(0);
    device.destroy();
  });

  it('are refused by name where an op binds its tensors whole', async () => {
    const { limits } = await testDevice();
    const graph = new Graph();
    graph.output('y', activation(graph.input('x', [300, 100]), 'silu'));
    expect(() => plan(graph, { ...limits, maxStorageBufferBindingSize: 65536 })).toThrow(
      "'activation' takes [300, 100] (0.12 MB) in one piece, and this device binds 0.0655 MB",
    );
  });
});
