/**
 * What can go wrong with the browser's storage, as typed errors in words. A full disk may show as a rejected request, as
 * the abort of a transaction whose requests all succeeded, or as Chromium's complaint that it cannot write a blob's file:
 * all three become `DiskFull`.
 */

export class DiskFull extends Error {
  override readonly name = 'DiskFull';

  constructor(
    /** What the browser said; for diagnostics. */
    readonly detail = '',
  ) {
    super('The browser has no room left for this page. Delete a kept run or model, then go on; nothing kept is lost.');
  }
}

/** Bytes that were kept do not read back as they were written: a crash of the machine, or a damaged disk. */
export class Damaged extends Error {
  override readonly name = 'Damaged';

  constructor(
    readonly path: string,
    readonly detail: string,
  ) {
    super(`What was kept as ${path} is damaged (${detail}).`);
  }
}

/** The database went away under an open page: a newer Stillroom wants to change it, or the person cleared it. */
export class StoreClosed extends Error {
  override readonly name = 'StoreClosed';

  constructor() {
    super('A newer Stillroom is open in another tab. Reload this page to go on.');
  }
}

/** Another tab holds the lock. */
export class Busy extends Error {
  override readonly name = 'Busy';

  constructor(readonly what: string) {
    super('This run is open in another tab, which is working on it. Go on there, or close that tab.');
  }
}

export function translate(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error));
  if (error.name === 'QuotaExceededError') return new DiskFull(error.message);
  if (/failed to write blobs|no space/i.test(error.message)) return new DiskFull(error.message);
  return error;
}
