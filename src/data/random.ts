/**
 * Random numbers that are a pure function of (seed, stream, row, place): Philox4x32-10, counter (place / 4, row, 0, stream),
 * key (seed, 0). So a shuffle of epoch 3 is the same whether epochs 1 and 2 were run in this process or before a crash.
 */
import { philox } from '../engine/ops/philox.ts';

/** What a stream of numbers is for; streams never overlap. Epochs and splits of one seed differ by these. */
export const STREAM = { split: 0x5350_4c00, epoch: 0x4550_0000, rows: 0x524f_5700, mask: 0x4d41_5300 } as const;

export class Random {
  private block: readonly number[] = [];
  private at = 4;
  private counter = 0;

  constructor(
    private readonly seed: number,
    private readonly stream: number,
    /** Which of the stream's rows, where each has numbers of its own. */
    private readonly row = 0,
  ) {}

  /** 32 random bits. */
  word(): number {
    if (this.at === 4) {
      this.block = philox([this.counter++, this.row, 0, this.stream], [this.seed, 0]);
      this.at = 0;
    }
    return this.block[this.at++]!;
  }

  /** Uniform in 0 … n − 1, unbiased: words beyond the last whole multiple of n are thrown away. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const word = this.word();
      if (word < limit) return word % n;
    }
  }
}

/** 0 … n − 1 in random order (Fisher–Yates, from the end). */
export function permutation(n: number, seed: number, stream: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  const random = new Random(seed, stream);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
