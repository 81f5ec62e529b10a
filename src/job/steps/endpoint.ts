/**
 * A teacher behind a server: its log probabilities of the rows, into the cache that a teacher in the engine fills. Where the
 * logits are log p, log Σ exp(z) is 0; of another temperature nothing can be said, and the cache's header declares none.
 */
import { countedPositions, type TokenizedRow } from '../../data/tokenize.ts';
import { InputError } from '../../formats/input-error.ts';
import type { Keep } from '../../formats/keep.ts';
import { createCache, type CacheRow, type LogitCache } from '../../formats/logit-cache.ts';
import type { Teacher } from '../../recipe/schema.ts';
import { sha256 } from '../../store/files.ts';
import { EndpointTeacher } from '../../teacher/endpoint/endpoint-teacher.ts';
import { inOrder } from '../../teacher/endpoint/in-order.ts';
import { ServerFault } from '../../teacher/endpoint/server.ts';
import type { ActiveRun } from '../active-run.ts';
import { CacheWriter } from './cache-writer.ts';
import type { RunData } from './data.ts';

export type EndpointRecipe = Extract<Teacher, { kind: 'endpoint' }>;

/** Rows whose words are held against the server's. */
const LOOKED_AT = 3;

export async function endpointCache(
  run: ActiveRun,
  { tokenizer, prepared }: RunData,
  rows: readonly TokenizedRow[],
  keep: Keep,
): Promise<LogitCache> {
  const named = run.recipe.teacher as EndpointRecipe;
  const { k } = run.recipe.distill;
  const { vocab_size } = tokenizer;
  if (k > vocab_size) {
    throw new InputError(run.recipeFile, 'distill.k', `is ${k}`, `at most the ${vocab_size} tokens of the vocabulary`);
  }
  const underWay = new AbortController();
  const teacher = await EndpointTeacher.open(
    named,
    run.host.reach.of(named.url),
    { k, tokenizer, rows: rows.slice(0, LOOKED_AT).map(({ input_ids }) => input_ids) },
    { signal: underWay.signal },
  ).catch(asInput);
  run.emit({ kind: 'fact', step: 'teacher', facts: { server: teacher.kind } });
  const cache = await createCache(keep, {
    teacher: { identity: `${named.model} at ${named.url}`, hash: await hashOf(named) },
    tokenizer_hash: tokenizer.hash,
    dataset_hash: prepared.hash,
    vocab_size,
    k,
    temperatures: [1],
    entries: 'topk',
    dtype: 'f32',
  });
  const writer = new CacheWriter(run, cache, rows.length);
  const ask = async ({ input_ids, labels }: TokenizedRow): Promise<CacheRow> => {
    const positions = countedPositions(labels, prepared.masked);
    const { ids, logprobs } = await teacher.logprobs(input_ids, positions);
    const log_z = new Float32Array(positions.length);
    return { positions: Int32Array.from(positions), ids, logits: logprobs, log_z };
  };
  try {
    for await (const row of inOrder(rows.slice(cache.rows), named.num_concurrent, ask, () => underWay.abort())) {
      await writer.add([row]);
      await run.breathe();
    }
  } finally {
    await writer.flush(); // whatever ended it, what has come was paid for
  }
  const tokens = rows.reduce((sum, row) => sum + row.input_ids.length, 0);
  await run.find('teacher', {
    ...run.facts.found.teacher,
    kind: 'endpoint',
    tokens_per_second: tokens / Math.max(1e-3, writer.seconds()),
  });
  return cache;
}

/** Before anything has come, what is wrong is a matter of the recipe, the key or the server's settings. */
export function asInput(error: unknown): never {
  throw error instanceof ServerFault ? new InputError(error.address, '', error.what, error.allowed) : error;
}

const hashOf = ({ url, model }: EndpointRecipe): Promise<string> =>
  sha256(new TextEncoder().encode(`${url}\n${model}`));
