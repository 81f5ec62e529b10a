import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { f16BitsToNumber, numberToF16Bits } from '../../../formats/half.ts';
import { Graph } from '../../graph/graph.ts';
import { plan } from '../../plan/plan.ts';
import { Arena, Program } from '../../run/program.ts';
import { checkKernel, floats, testDevice } from '../../testing.ts';
import { matmul } from '../matmul/matmul.ts';
import { unpack } from '../unpack/unpack.ts';
import { pack, toHalf } from './pack.ts';

/** What WGSL leaves open: which of two neighbours a number between them becomes. A step is 2⁻¹⁰ of the power of two below. */
const STEP = 2 ** -10;

/** As they come home from the device, packed and unpacked. */
async function throughHalves(data: Float32Array): Promise<Float32Array> {
  const device = await testDevice();
  const graph = new Graph();
  graph.output('y', unpack(pack(graph.input('x', [data.length]))));
  const arena = new Arena(device);
  const program = await Program.create(device, plan(graph, device.limits), new Map(), arena);
  const y = (await program.run({ x: data })).get('y') as Float32Array;
  program.free();
  arena.free();
  return y.slice();
}

describe('pack', () => {
  it.each([[1], [2], [7], [3, 5], [2, 3, 4], [130, 66]])('kernel [%s]', (...shape) =>
    checkKernel({ inputs: [floats(shape, 1)], build: (x) => unpack(pack(x)), tolerance: STEP }),
  );

  it('more than 65,535 workgroups hold', { timeout: 120_000 }, () =>
    checkKernel({ inputs: [floats([65535 * 128 + 3], 1)], build: (x) => unpack(pack(x)), tolerance: STEP }),
  );

  it('in windows, where the f32 numbers are more than a binding holds and the halves are not', () =>
    checkKernel({
      inputs: [floats([640, 40], 1)],
      build: (x) => unpack(pack(x)),
      tolerance: STEP,
      maxBinding: 65536,
    }));

  it('is read by a product', () =>
    checkKernel({
      inputs: [floats([24, 16], 1), floats([24, 40], 2)],
      build: (g, x) => matmul(g, pack(x), { transA: true }),
      tolerance: STEP,
    }));

  it('any number, subnormals and those beyond included', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.float({ noNaN: true }), fc.float({ noNaN: true, min: -1, max: 1 })), {
          minLength: 1,
          maxLength: 33,
        }),
        async (numbers) => {
          const data = Float32Array.from(numbers);
          const got = await throughHalves(data);
          data.forEach((value, i) => {
            const wanted = toHalf(value);
            if (Number.isFinite(wanted)) {
              const allowed = Math.max(2 ** -24, Math.abs(value) * STEP);
              expect(Math.abs(got[i]! - value), `${value}`).toBeLessThanOrEqual(allowed);
            } else expect(got[i], `${value}`).toBe(wanted);
          });
        },
      ),
      { numRuns: 50 },
    ));

  it('says NaN as an infinity, so that it is not lost', async () => {
    expect(Math.abs((await throughHalves(Float32Array.of(NaN, 1)))[0]!)).toBe(Infinity);
  });

  it('rounds in float64 as IEEE does', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true }), (value) => {
        expect(toHalf(value) + 0).toBe(f16BitsToNumber(numberToF16Bits(value)) + 0);
      }),
    );
    for (const value of [65519.99, 65520, -65520, 2 ** -24, 2 ** -25, 1.5 * 2 ** -24, 1 + 2 ** -11, 1 + 3 * 2 ** -11])
      expect(toHalf(Math.fround(value))).toBe(f16BitsToNumber(numberToF16Bits(value)));
  });
});
