/** Results of elementwise ops take the place of what nobody reads afterwards (plan.ts). */
import { describe, expect, it } from 'vitest';
import { Graph } from '../graph/graph.ts';
import type { Value } from '../graph/types.ts';
import { activation, add, addScaled, matmul, mul, scale, scaleBy, siluMul } from '../ops/index.ts';
import { siluMulGradientOp } from '../ops/silu-mul/silu-mul.ts';
import { checkKernel, floats, testDevice, type OpInput } from '../testing.ts';
import { plan } from './plan.ts';

/** A size that four divides and one that it does not: both widths of the kernels. */
const SHAPES = [
  [4, 44],
  [3, 7],
] as const;

/** A tensor that no source holds, so that its place may be taken. */
const made = (x: Value): Value => add(x, x);

const OPS: Readonly<Record<string, (a: Value, b: Value, s: Value) => Value>> = {
  add,
  mul,
  'a square': (a) => mul(a, a),
  scale: (a) => scale(a, 0.3),
  scaleBy: (a, _, s) => scaleBy(a, s),
  addScaled: (a, b) => addScaled(a, b, -0.7),
  siluMul,
  gelu: (a) => activation(a, 'gelu'),
  relu: (a) => activation(a, 'relu'),
};

async function bytesOfArena(
  inputs: readonly OpInput[],
  build: (...values: Value[]) => readonly Value[],
): Promise<number> {
  const graph = new Graph();
  build(...inputs.map(({ shape }, i) => graph.input(`in${i}`, shape))).forEach((value, i) =>
    graph.output(`out${i}`, value),
  );
  const { limits } = await testDevice();
  return plan(graph, { ...limits, minStorageBufferOffsetAlignment: 4 }).memory.arena;
}

describe('an elementwise result', () => {
  for (const shape of SHAPES) {
    const inputs = [floats(shape, 1), floats(shape, 2), floats([1], 3)];
    const bytes = 4 * shape[0] * shape[1];
    for (const [name, op] of Object.entries(OPS)) {
      const build = (a?: Value, b?: Value, s?: Value): Value[] => [op(made(a!), made(b!), s!)];
      it(`of ${name}, ${shape.join('x')}, lies where its first operand lay`, async () => {
        await checkKernel({ inputs, build, tolerance: 1e-6 });
        const operands = op.length === 2 ? 2 : 1;
        expect(await bytesOfArena(inputs, build)).toBe(operands * bytes);
      });
    }
    it(`of two results, ${shape.join('x')}, both replace an operand (the gradients of SwiGLU)`, async () => {
      const build = (a?: Value, b?: Value): readonly Value[] =>
        a!.graph.apply(siluMulGradientOp, [made(a!), made(b!), made(a!)]);
      await checkKernel({ inputs, build, tolerance: 1e-6 });
      expect(await bytesOfArena(inputs, build)).toBe(3 * bytes);
    });
  }

  const [x, w] = [floats([6, 8], 4), floats([8, 8], 5)];
  it('leaves what is read later', async () => {
    const build = (x?: Value): Value[] => {
      const a = made(x!);
      const b = scale(a, 2);
      return [mul(b, a)];
    };
    await checkKernel({ inputs: [x], build, tolerance: 1e-6 });
    expect(await bytesOfArena([x], build)).toBe(2 * 4 * 48);
  });

  it('leaves what the caller reads, and a source', async () => {
    const build = (x?: Value): Value[] => {
      const a = made(x!);
      return [a, scale(a, 2), scale(x!, 3)];
    };
    await checkKernel({ inputs: [x], build, tolerance: 1e-6 });
    expect(await bytesOfArena([x], build)).toBe(3 * 4 * 48);
  });

  it('takes the place of another that took a place', async () => {
    const build = (x?: Value): Value[] => [activation(scale(activation(made(x!), 'silu'), 2), 'gelu')];
    await checkKernel({ inputs: [x], build, tolerance: 1e-6 });
    expect(await bytesOfArena([x], build)).toBe(4 * 48);
  });

  it('leaves what a product reads after it', async () => {
    const build = (x?: Value, w?: Value): Value[] => {
      const a = made(x!);
      return [add(matmul(a, w!), scale(a, 0.5))];
    };
    await checkKernel({ inputs: [x, w], build, tolerance: 1e-6 });
  });
});
