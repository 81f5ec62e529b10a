/**
 * What can compute a matmul on a device, the safe variant first: it is taken until something is known (engine/tune).
 *
 * Two families sum in another order than all others and stand alone where they are for the shape: few-rows.ts, as reading
 * the weight bounds the few rows of decoding, and split.ts, where few outputs have long sums. CPU adapters pay for loads
 * (lanes.ts). On a GPU what is fastest depends on its registers, caches and how many threads it needs to be busy: small
 * tiles keep it busy on small products, large ones load less, workgroup memory pays where caches are small, and a subgroup may
 * hand numbers round (broadcast.ts). A weight that is held as f16 may be read as f16, in half the workgroup memory, which
 * changes no number.
 */
import type { MatmulCode, MatmulWindow } from './kernel.ts';
import { broadcastCode, suitsBroadcast, type BroadcastTile } from './broadcast.ts';
import { fewRowsCode, isFewRows } from './few-rows.ts';
import { chooseLanes, isCpu, lanesCode, usualBlock, type LanesTile } from './lanes.ts';
import { sharedCode, suitsShared, type SharedTile } from './shared.ts';
import { isSplit, splitCode, splitTile } from './split.ts';
import { safeTile, tiledCode, tileOf, type MatmulTile } from './tiles.ts';

export interface MatmulVariant {
  /** "tile 4x4": the family is its first word. */
  readonly name: string;
  code(): MatmulCode;
}

const TILES = [
  [4, 4],
  [8, 4],
  [4, 8],
  [8, 8],
  [2, 4],
  [2, 2],
  [1, 4],
] as const;
/** Threads that share a tile, and its rows and columns. */
const SPLITS = [
  [8, 4, 4],
  [4, 4, 4],
  [8, 2, 4],
  [1, 4, 4],
] as const;
/** Rows a lane loads and columns it owns. */
const LANES = [
  { RA: 4, TN: 4 },
  { RA: 4, TN: 2 },
  { RA: 2, TN: 4 },
  { RA: 2, TN: 2 },
] as const;
const BROADCASTS: readonly BroadcastTile[] = [
  { TM: 8, TN: 4 },
  { TM: 4, TN: 4 },
];
const SHARED: readonly SharedTile[] = [
  { BM: 32, BN: 32, BK: 16, TM: 4, TN: 4 },
  { BM: 64, BN: 64, BK: 16, TM: 8, TN: 8 },
  { BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 },
];

export function variantsOf(window: MatmulWindow): MatmulVariant[] {
  const { M, N, b: weight, limits } = window;
  const cpu = isCpu(limits?.subgroupSize);
  const found: MatmulVariant[] = [];
  const offer = (name: string, code: () => MatmulCode): void => {
    if (!limits?.refused?.has(name) && !found.some((known) => known.name === name)) found.push({ name, code });
  };
  const offerLanes = (lanes: LanesTile | undefined): void => {
    if (lanes) offer(`lanes ${lanes.lanes * lanes.RA}x${lanes.TN}`, () => lanesCode(window, lanes));
  };
  const offerTile = (tile: MatmulTile): void => offer(`tile ${tile.TM}x${tile.TN}`, () => tiledCode(window, tile));

  if (limits && !cpu && isFewRows(window)) offer('few-rows', () => fewRowsCode(window));
  else if (limits && !cpu && isSplit(window))
    for (const [ways, TM, TN] of SPLITS) {
      const tile = splitTile(M, N, TM, TN, ways);
      offer(`split ${ways} of ${tile.TM}x${tile.TN}`, () => splitCode(window, tile));
    }
  if (found.length > 0) return found;
  offerLanes(chooseLanes(M, N, limits?.subgroupSize, usualBlock(limits)));
  const safe = safeTile(M, N);
  offerTile(safe);
  if (!limits) return found;
  if (cpu) for (const most of LANES) offerLanes(chooseLanes(M, N, limits.subgroupSize, most));
  else {
    for (const [TM, TN] of TILES) if (TM <= M && TN <= N) offerTile(tileOf(M, N, TM, TN));
    if (limits.subgroups)
      for (const tile of BROADCASTS)
        if (suitsBroadcast(window, tile)) offer(`broadcast ${tile.TM}x${tile.TN}`, () => broadcastCode(window, tile));
    const shared = SHARED.filter((tile) => suitsShared(window, tile));
    const nameOf = ({ BM, BN, TM, TN }: SharedTile): string => `shared ${BM}x${BN} by ${TM}x${TN}`;
    for (const tile of shared) offer(nameOf(tile), () => sharedCode(window, tile));
    if (weight.type.dtype === 'f16' && limits.shaderF16) {
      offer(`tile ${safe.TM}x${safe.TN} f16`, () => tiledCode(window, safe, true));
      for (const tile of shared) offer(`${nameOf(tile)} f16`, () => sharedCode(window, tile, true));
    }
  }
  // a device on which every variant of its own is wrong still has the tile; the self-test has said what it thinks of that
  if (found.length === 0) found.push({ name: `tile ${safe.TM}x${safe.TN}`, code: () => tiledCode(window, safe) });
  return found;
}
