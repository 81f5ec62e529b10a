/**
 * Several requests under way at a time, their results in the order of the items: what has come is used, whatever becomes of
 * those behind it.
 * @param abort told when whoever asked has had enough, or when one failed
 */
export async function* inOrder<Item, Result>(
  items: readonly Item[],
  atOnce: number,
  ask: (item: Item) => Promise<Result>,
  abort: () => void,
): AsyncGenerator<Result, void, undefined> {
  const under: Promise<Result>[] = [];
  let next = 0;
  const start = (): void => {
    if (next >= items.length) return;
    const asked = ask(items[next++]!);
    asked.catch(() => undefined); // told in its turn
    under.push(asked);
  };
  try {
    while (under.length < Math.min(atOnce, items.length)) start();
    while (under.length > 0) {
      const result = await under.shift()!;
      start();
      yield result;
    }
  } finally {
    if (under.length > 0) abort();
  }
}
