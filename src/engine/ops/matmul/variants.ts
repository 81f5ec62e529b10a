/**
 * What can compute a matmul on a device, the safe variant first: it is taken until something is known (engine/tune).
 *
 * Reading the weight bounds the few rows of decoding, and few-rows.ts sums in another order: it stands alone where it is for
 * the shape. CPU adapters pay for loads (lanes.ts). On a GPU what is fastest depends on its registers, caches and how many
 * threads it needs to be busy: small tiles keep it busy on small products, large ones load less, and workgroup memory pays
 * where caches are small.
 */
import type { MatmulCode, MatmulWindow } from './kernel.ts';
import { fewRowsCode, isFewRows } from './few-rows.ts';
import { chooseLanes, isCpu, lanesCode, usualBlock, type LanesTile } from './lanes.ts';
import { sharedCode, suitsShared, type SharedTile } from './shared.ts';
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
/** Rows a lane loads and columns it owns. */
const LANES = [
  { RA: 4, TN: 4 },
  { RA: 4, TN: 2 },
  { RA: 2, TN: 4 },
  { RA: 2, TN: 2 },
] as const;
const SHARED: readonly SharedTile[] = [
  { BM: 32, BN: 32, BK: 16, TM: 4, TN: 4 },
  { BM: 64, BN: 64, BK: 16, TM: 8, TN: 8 },
  { BM: 64, BN: 64, BK: 16, TM: 4, TN: 4 },
];

export function variantsOf(window: MatmulWindow): MatmulVariant[] {
  const { M, N, limits } = window;
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
  if (found.length > 0) return found;
  offerLanes(chooseLanes(M, N, limits?.subgroupSize, usualBlock(limits)));
  const safe = safeTile(M, N);
  offerTile(safe);
  if (!limits) return found;
  if (cpu) for (const most of LANES) offerLanes(chooseLanes(M, N, limits.subgroupSize, most));
  else {
    for (const [TM, TN] of TILES) if (TM <= M && TN <= N) offerTile(tileOf(M, N, TM, TN));
    for (const tile of SHARED)
      if (suitsShared(window, tile)) {
        const { BM, BN, TM, TN } = tile;
        offer(`shared ${BM}x${BN} by ${TM}x${TN}`, () => sharedCode(window, tile));
      }
  }
  // a device on which every variant of its own is wrong still has the tile; the self-test has said what it thinks of that
  if (found.length === 0) found.push({ name: `tile ${safe.TM}x${safe.TN}`, code: () => tiledCode(window, safe) });
  return found;
}
