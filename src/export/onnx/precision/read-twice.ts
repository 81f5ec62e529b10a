/** What two initializers share (bytes and their scales) is made once and let go when both have been written. */
export function readTwice<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  let left = 0;
  return () => {
    if (made === undefined) {
      made = make();
      left = 2;
    }
    const answer = made;
    if (--left === 0) made = undefined;
    return answer;
  };
}
