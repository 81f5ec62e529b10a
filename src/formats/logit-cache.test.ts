import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { collectBytes, MemorySource } from './byte-source.ts';
import { crc32 } from './crc32.ts';
import { InputError } from './input-error.ts';
import { MemoryKeep, type Keep } from './keep.ts';
import { encodeBlock, encodeHeader, completeHeader } from './logit-cache-format.ts';
import { exportFile, importFile, openCacheFile } from './logit-cache-file.ts';
import { createCache, openCache, type CacheHeader, type CacheRow, type LogitCache } from './logit-cache.ts';
import { readDamaged, readsOrRefuses } from './mutation.testing.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const header: Omit<CacheHeader, 'coding'> = {
  teacher: { identity: 'tiny', hash: 'abc' },
  tokenizer_hash: 'tok',
  dataset_hash: 'data',
  vocab_size: 100,
  k: 3,
  temperatures: [1, 2],
  entries: 'topk',
  dtype: 'f32',
};

/** Logits of a whole vocabulary, as a real teacher has them, cut to a row of the cache. */
function rowOf(seed: number, length: number): CacheRow {
  const { k, temperatures, vocab_size } = header;
  const row = {
    positions: Int32Array.from({ length }, (_, p) => 2 * p + 1),
    ids: new Int32Array(length * k),
    logits: new Float32Array(length * k),
    log_z: new Float32Array(length * temperatures.length),
  };
  for (let p = 0; p < length; p++) {
    const z = Array.from({ length: vocab_size }, (_, i) => 4 * Math.sin((i + 1) * (seed + 1) * 12.9898 + p));
    const order = z.map((_, i) => i).sort((a, b) => z[b]! - z[a]!);
    for (let i = 0; i < k; i++) {
      row.ids[p * k + i] = order[i]!;
      row.logits[p * k + i] = z[order[i]!]!;
    }
    temperatures.forEach((temperature, t) => {
      row.log_z[p * temperatures.length + t] = Math.log(z.reduce((sum, x) => sum + Math.exp(x / temperature), 0));
    });
  }
  return row;
}

const rows = (count: number, from = 0) => Array.from({ length: count }, (_, i) => rowOf(from + i, (from + i) % 4));

/** Three draws at each position, of one to three tokens. */
function sampledRow(seed: number, length: number): CacheRow {
  const row = rowOf(seed, length);
  const { k } = header;
  for (let p = 0; p < length; p++) {
    const tokens = [...row.ids.subarray(p * k, (p + 1) * k)].sort((a, b) => a - b);
    const [a, b, c] = tokens as [number, number, number];
    const drawn = [
      [a, b, c],
      [a, a, c],
      [b, b, b],
    ][(seed + p) % 3]!;
    const logits = new Map(tokens.map((id) => [id, row.logits[p * k + row.ids.subarray(p * k).indexOf(id)]!]));
    drawn.forEach((id, i) => {
      row.ids[p * k + i] = id;
      row.logits[p * k + i] = logits.get(id)!;
    });
  }
  return row;
}

const sampledRows = (count: number) => Array.from({ length: count }, (_, i) => sampledRow(i, 1 + (i % 4)));

async function sampledCache() {
  const keep = new MemoryKeep();
  const cache = await createCache(keep, { ...header, entries: 'sampling' });
  await cache.append(sampledRows(3));
  await cache.append(sampledRows(8).slice(3));
  return { keep, cache };
}

async function all(cache: LogitCache): Promise<CacheRow[]> {
  const read: CacheRow[] = [];
  for (let row = 0; row < cache.rows; row++) read.push(await cache.read(row));
  return read;
}

async function madeOf(...batches: CacheRow[][]) {
  const keep = new MemoryKeep();
  const cache = await createCache(keep, header);
  for (const batch of batches) await cache.append(batch);
  return { keep, cache };
}

const blockKeys = (keep: Keep) => keep.keys('logit-cache/block/');

test('crc32 is the one of zip', () => {
  expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
});

describe('round trip', () => {
  test('rows come back in any order, from the keep, from a file, and from the file taken in again', async () => {
    const lengths = fc.array(fc.nat(5), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(fc.array(lengths, { maxLength: 4 }), async (batches) => {
        const made = batches.map((batch, b) => batch.map((length, i) => rowOf(b * 100 + i, length)));
        const { keep, cache } = await madeOf(...made);
        const expected = made.flat();
        expect(cache.rows).toBe(expected.length);
        expect(await all(cache)).toEqual(expected);
        expect(await all((await openCache(keep))!)).toEqual(expected);

        const file = await collectBytes(exportFile(cache));
        expect(await all(await openCacheFile(new MemorySource('c', file)))).toEqual(expected);
        const keep2 = new MemoryKeep();
        expect(await all(await importFile(keep2, new MemorySource('c', file)))).toEqual(expected);
        expect(await collectBytes(exportFile((await openCache(keep2))!))).toEqual(file);
      }),
      { numRuns: 50 },
    );
  });

  test('the mass that is kept, at each declared temperature', async () => {
    const { cache } = await madeOf(rows(7), rows(3, 7));
    for (const [t, temperature] of header.temperatures.entries()) {
      let mass = 0;
      let positions = 0;
      for (const row of [...rows(7), ...rows(3, 7)]) {
        positions += row.positions.length;
        row.logits.forEach((z, i) => (mass += Math.exp(z / temperature - row.log_z[Math.floor(i / 3) * 2 + t]!)));
      }
      expect(cache.massKept(temperature)).toBeCloseTo(mass / positions, 12);
      expect(cache.positions).toBe(positions);
    }
    expect(cache.massKept(1)).toBeLessThan(1);
    expect(() => cache.massKept(3)).toThrow('3 is not among them: 1, 2');
  });

  test('a cache of the k largest has the bytes that it always had', async () => {
    const file = await collectBytes(exportFile((await madeOf(rows(7), rows(3, 7))).cache));
    expect([file.length, crc32(file)]).toEqual([919, 270297595]);
  });

  test('every draw comes back, a token as often as it was drawn; the mass counts it once', async () => {
    const { keep, cache } = await sampledCache();
    expect(await all(cache)).toEqual(sampledRows(8));
    const file = await collectBytes(exportFile((await openCache(keep))!));
    const taken = await importFile(new MemoryKeep(), new MemorySource('c', file));
    expect(taken.header.entries).toBe('sampling');
    expect(await all(taken)).toEqual(sampledRows(8));
    expect(await collectBytes(exportFile(taken))).toEqual(file);

    let mass = 0;
    for (const { positions, ids, logits, log_z } of sampledRows(8)) {
      for (let p = 0; p < positions.length; p++) {
        const tokens = new Map([0, 1, 2].map((i) => [ids[3 * p + i]!, logits[3 * p + i]!]));
        for (const logit of tokens.values()) mass += Math.exp(logit - log_z[2 * p]!);
      }
    }
    expect(taken.massKept(1)).toBeCloseTo(mass / taken.positions, 12);
  });

  test('draws that are out of order, or missing, are not written', async () => {
    const { cache } = await sampledCache();
    const row = sampledRow(0, 1);
    for (const ids of [
      [5, 4, 9],
      [-1, 4, 9],
      [4, 9, -1],
    ]) {
      const bad = { ...row, ids: Int32Array.from(ids) };
      await expect(cache.append([bad])).rejects.toThrow('row 8 does not fit the header');
    }
  });

  test('many rows become several blocks, and a long one is found by its number', async () => {
    const { keep, cache } = await madeOf(Array.from({ length: 20 }, (_, i) => rowOf(i, 2000)));
    expect((await blockKeys(keep)).length).toBeGreaterThan(1);
    for (const row of [19, 0, 14, 15, 19]) expect(await cache.read(row)).toEqual(rowOf(row, 2000));
    await expect(cache.read(20)).rejects.toThrow('row 20: the cache has 20 rows');
  });

  test('rows that do not fit the header are not written', async () => {
    const { cache } = await madeOf();
    const row = rowOf(1, 2);
    const bad: CacheRow[] = [
      { ...row, ids: row.ids.map(() => 100) },
      { ...row, logits: row.logits.map(() => NaN) },
      { ...row, log_z: row.log_z.slice(1) },
      { ...row, positions: Int32Array.of(3, 3) },
    ];
    for (const b of bad) await expect(cache.append([row, b])).rejects.toThrow('row 1 does not fit the header');
    expect(cache.rows).toBe(0);
    expect(await cache.append([{ ...row, ids: row.ids.map(() => -1) }])).toBeUndefined();
  });
});

describe('interruption and damage', () => {
  test('a writer stopped at any put goes on at the row where it stopped, and ends with the same bytes', async () => {
    const batches = [rows(2), rows(3, 2), rows(1, 5), rows(4, 6)];
    const whole = await collectBytes(exportFile((await madeOf(...batches)).cache));
    for (let stop = 0; stop <= batches.length; stop++) {
      const keep = new MemoryKeep();
      let puts = 0;
      const failing: Keep = {
        get: (key) => keep.get(key),
        keys: (prefix) => keep.keys(prefix),
        delete: (keys) => keep.delete(keys),
        put: async (entries) => {
          if (puts++ === stop) throw new Error('the disk is full');
          await keep.put(entries);
        },
      };
      const write = async (on: Keep) => {
        const cache = await createCache(on, header);
        for (const batch of batches) {
          const first = batches.slice(0, batches.indexOf(batch)).flat().length;
          if (first >= cache.rows) await cache.append(batch);
        }
        return cache;
      };
      await expect(write(failing)).rejects.toThrow('the disk is full');
      expect(await collectBytes(exportFile(await write(keep)))).toEqual(whole);
    }
  });

  test.each(['cut', 'flipped', 'gone'])(
    'a block %s ends the cache there; the writer writes it anew',
    async (damage) => {
      for (const at of [0, 1, 2]) {
        const { keep } = await madeOf(rows(2), rows(2, 2), rows(2, 4));
        const key = (await blockKeys(keep))[at]!;
        const bytes = (await keep.get(key))!.slice();
        if (damage === 'flipped') bytes[bytes.length - 1]! ^= 1;
        if (damage === 'gone') await keep.delete([key]);
        else await keep.put([{ key, bytes: damage === 'cut' ? bytes.slice(0, -1) : bytes }]);

        const cache = (await openCache(keep))!;
        expect(cache.rows).toBe(2 * at);
        expect(await all(cache)).toEqual(rows(2 * at));
        await cache.append(rows(6 - 2 * at, 2 * at));
        expect(await all(cache)).toEqual(rows(6));
        expect(await all((await openCache(keep))!)).toEqual(rows(6));
      }
    },
  );

  test('damage while it is open is an error that names the rows', async () => {
    const { keep, cache } = await madeOf(rows(2), rows(2, 2));
    const key = (await blockKeys(keep))[1]!;
    const bytes = (await keep.get(key))!.slice();
    bytes[bytes.length - 1]! ^= 1;
    await keep.put([{ key, bytes }]);
    await expect(cache.read(3)).rejects.toThrow('logit cache: rows 2 to 3: their checksum differs');
    await keep.delete([key]);
    await expect(cache.read(2)).rejects.toThrow('rows 2 to 3: they are gone');
    expect(await cache.read(1)).toEqual(rowOf(1, 1));
  });
});

describe('another cache', () => {
  test('of another tokenizer or dataset is refused', async () => {
    const { keep, cache } = await madeOf(rows(1));
    expect(await openCache(new MemoryKeep())).toBeUndefined();
    expect((await openCache(keep, { tokenizer_hash: 'tok', dataset_hash: 'data' }))!.rows).toBe(1);
    await expect(openCache(keep, { tokenizer_hash: 'other' }, 'c.cache')).rejects.toThrow(
      'c.cache: header.tokenizer_hash: it was made with another tokenizer: "tok": "other"',
    );
    await expect(openCache(keep, { dataset_hash: 'x' })).rejects.toThrow(InputError);
    await expect(createCache(keep, { ...header, temperatures: [1, 5] })).rejects.toThrow('header.temperatures');
    expect((await createCache(keep, header)).rows).toBe(1);
    const file = new MemorySource('c', await collectBytes(exportFile(cache)));
    await expect(openCacheFile(file, { dataset_hash: 'x' })).rejects.toThrow('it was made from other rows');
    await expect(importFile(keep, file)).rejects.toThrow('another cache is kept in its place');
  });

  test.each([
    [{ k: 0 }, 'header.k: it is 0'],
    [{ k: 101 }, 'header.k: it is 101: a whole number from 1 to vocab_size, 100'],
    [{ temperatures: [2] }, 'header.temperatures: it is [2]: different numbers above 0, 1 among them'],
    [{ temperatures: [1, 1] }, 'header.temperatures'],
    [{ temperatures: [1, 0] }, 'header.temperatures'],
    [{ coding: 77 }, 'header.coding: it is 77: 1'],
    [{ tokenizer_hash: 5 }, 'header.tokenizer_hash: it is 5'],
    [{ entries: 'all' }, 'header.entries: it is "all"'],
  ])('%j is no header', async (change, message) => {
    const bad = { ...header, ...change } as CacheHeader;
    await expect(createCache(new MemoryKeep(), bad)).rejects.toThrow(message);
  });
});

describe('bad files', async () => {
  const { cache } = await madeOf(rows(3), rows(5, 3));
  const good = await collectBytes(exportFile(cache));
  const empty = await collectBytes(exportFile((await madeOf()).cache));
  const sampled = await collectBytes(exportFile((await sampledCache()).cache));

  async function readEverything(file: Bytes): Promise<void> {
    const read = await openCacheFile(new MemorySource('c', file));
    await all(read);
    await all(await importFile(new MemoryKeep(), new MemorySource('c', file)));
  }

  test('cut at every byte it is refused', async () => {
    for (let length = 0; length < good.length; length++) {
      expect(await readsOrRefuses(length, () => readEverything(good.slice(0, length))), `${length}`).toBe(false);
    }
  });

  test('one flipped bit anywhere is refused', async () => {
    for (let at = 0; at < good.length; at++) {
      const bad = good.slice();
      bad[at]! ^= 1 << (at % 8);
      expect(await readsOrRefuses(bad.length, () => readEverything(bad)), `byte ${at}`).toBe(false);
    }
  });

  test('2,000 damaged files are read or refused, never worse', async () => {
    const outcomes = await readDamaged([good, empty], 2000, readEverything);
    expect(outcomes.refused).toBeGreaterThan(1500);
  });

  test('and 1,000 of a cache made by sampling', async () => {
    const outcomes = await readDamaged([sampled], 1000, readEverything);
    expect(outcomes.refused).toBeGreaterThan(750);
  });

  test('2,000 damaged stores: what opens is rows as they were written', async () => {
    const keys = ['logit-cache/header', 'logit-cache/block/00000000', 'logit-cache/block/00000001'];
    const { keep } = await madeOf(rows(3), rows(5, 3));
    const seeds = await Promise.all(keys.map(async (key) => (await keep.get(key))!));
    for (const [i, key] of keys.entries()) {
      await readDamaged([seeds[i]!], i === 0 ? 1000 : 500, async (bytes) => {
        const damaged = new MemoryKeep();
        await damaged.put(keys.map((k, j) => ({ key: k, bytes: seeds[j]! })));
        await damaged.put([{ key, bytes }]);
        const cache = (await openCache(damaged))!;
        expect(await all(cache)).toEqual(rows(cache.rows));
      });
    }
  });

  test('with checksums that hold and values that do not, it is refused', async () => {
    const forged = async (row: Partial<CacheRow>, entries: CacheHeader['entries'] = 'topk') => {
      const complete = completeHeader({ ...header, entries });
      const keep = new MemoryKeep();
      const block = encodeBlock(0, [{ ...rowOf(0, 2), ...row }], complete);
      await keep.put([
        { key: 'logit-cache/header', bytes: encodeHeader(complete) },
        { key: 'logit-cache/block/00000000', bytes: block },
      ]);
      return (await openCache(keep))!.read(0);
    };
    await expect(forged({})).resolves.toEqual(rowOf(0, 2));
    await expect(forged({ ids: new Int32Array(6).fill(100) })).rejects.toThrow('are out of bounds');
    await expect(forged({ ids: Int32Array.of(1, 1, 2, 7, 6, 8) }, 'sampling')).rejects.toThrow('are out of bounds');
    await expect(forged({ positions: Int32Array.of(1, 0) })).rejects.toThrow('are out of bounds');
    await expect(forged({ log_z: new Float32Array(5) })).rejects.toThrow('does not decode');
  });

  test('a block of 4 million empty rows stays small', async () => {
    const complete = completeHeader(header);
    const block = encodeBlock(0, new Array<CacheRow>(4_000_000).fill(rowOf(0, 0)), complete);
    const keep = new MemoryKeep();
    await keep.put([
      { key: 'logit-cache/header', bytes: encodeHeader(complete) },
      { key: 'logit-cache/block/00000000', bytes: block },
    ]);
    const before = process.memoryUsage().heapUsed;
    await (await openCache(keep))!.read(3_999_999);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(200e6);
  });
});
