/** What the device itself can do: multiply-adds with nothing to wait for, and reading memory with nothing to compute. */
import { bytesOf, sizeOf, type OpDefinition } from '../../engine/graph/types.ts';
import type { Device } from '../../engine/run/device.ts';
import { timeGraph } from './measure.ts';

export interface Bounds {
  /** The best of f32 and vec4 loops with a multiply-add a chain a round, 10⁹ float operations a second. */
  readonly peak_gflops: number;
  /** The best of loops that read once a round, 10⁹ bytes a second. */
  readonly stream_gbps: number;
  /**
   * The same with several in a round. A GPU's compiler unrolls by itself and shows no difference; where the driver does not,
   * a plain loop spends half its time on being a loop, and its rate is no limit to a kernel that does more in a round.
   */
  readonly unrolled: { readonly peak_gflops: number; readonly stream_gbps: number };
}

export async function measureBounds(device: Device): Promise<Bounds> {
  const plain = { peak_gflops: await peak(device, 1), stream_gbps: await stream(device, 1) };
  return {
    ...plain,
    unrolled: {
      peak_gflops: Math.max(plain.peak_gflops, await peak(device, 4)),
      stream_gbps: Math.max(plain.stream_gbps, await stream(device, 16)),
    },
  };
}

async function peak(device: Device, unroll: number): Promise<number> {
  let best = 0;
  for (const [type, chains] of [
    ['f32', 8],
    ['f32', 12],
    ['f32', 16],
    ['vec4<f32>', 8],
  ] as const) {
    const steps = device.adapter.software ? 1000 : 8000;
    const { ms, flops } = await timeGraph(device, (graph) =>
      graph.apply(multiplyAdds, [graph.input('x', [2])], { type, chains, steps, unroll }),
    );
    best = Math.max(best, flops / ms / 1e6);
  }
  return best;
}

async function stream(device: Device, spread: number): Promise<number> {
  let best = 0;
  const size = device.adapter.software ? STREAM.software : STREAM.hardware;
  for (const type of ['f32', 'vec4<f32>'] as const) {
    const { ms } = await timeGraph(device, (graph) => graph.apply(reads, [graph.input('x', [size])], { type, spread }));
    best = Math.max(best, (4 * size) / ms / 1e6);
  }
  return best;
}

const THREADS = 16384;
/** f32 that the reading shader goes through: more than caches hold, and no more than a slow device reads in a moment. */
const STREAM = { software: 2 ** 22, hardware: 2 ** 25 };

const multiplyAdds: OpDefinition<{
  readonly type: string;
  readonly chains: number;
  readonly steps: number;
  readonly unroll: number;
}> = {
  name: 'multiply-adds',
  infer: () => [{ shape: [THREADS], dtype: 'f32' }],
  cost: (_inputs, _outputs, { type, chains, steps }) => ({
    flops: 2 * chains * steps * THREADS * (type === 'f32' ? 1 : 4),
    bytes: 4 * THREADS,
  }),
  kernel({ inputs: [x], outputs: [out], attributes: { type, chains, steps, unroll } }) {
    const names = Array.from({ length: chains }, (_, i) => `c${i}`);
    const sum = names.join(' + ');
    return [
      {
        label: `multiply-adds ${type} ${chains} by ${unroll}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read' },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  let m = ${type}(x[0] * 0.5);
  let b = ${type}(x[1]);
  ${names.map((c, i) => `var ${c} = m + ${type}(${i}.0);`).join(' ')}
  for (var i = 0u; i < ${steps / unroll}u; i++) {
    ${Array.from({ length: unroll }, () => names.map((c) => `${c} = fma(${c}, m, b);`).join(' ')).join('\n    ')}
  }
  out[gid.x] = ${type === 'f32' ? sum : `dot(${sum}, vec4<f32>(1.0))`};
}`,
        workgroups: [THREADS / 64, 1, 1],
      },
    ];
  },
};

/** Each thread sums `spread` runs of elements; neighbours in a run belong to neighbouring threads. */
const reads: OpDefinition<{ readonly type: string; readonly spread: number }> = {
  name: 'reads',
  infer: () => [{ shape: [THREADS], dtype: 'f32' }],
  cost: ([x]) => ({ flops: sizeOf(x!.shape), bytes: bytesOf(x!) }),
  kernel({ inputs: [x], outputs: [out], attributes: { type, spread } }) {
    const each = x!.size / (type === 'f32' ? 1 : 4) / THREADS;
    const at = (j: number): string => `x[(i + ${j}u) * ${THREADS}u + gid.x]`;
    const terms = Array.from({ length: spread }, (_, j) => `s += ${at(j)};`).join(' ');
    return [
      {
        label: `reads ${type} ${spread}`,
        bindings: [
          { name: 'x', operand: x!, access: 'read', element: type },
          { name: 'out', operand: out!, access: 'write' },
        ],
        code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  var s = ${type}();
  for (var i = 0u; i < ${each}u; i += ${spread}u) { ${terms} }
  out[gid.x] = ${type === 'f32' ? 's' : 'dot(s, vec4<f32>(1.0))'};
}`,
        workgroups: [THREADS / 64, 1, 1],
      },
    ];
  },
};
