/**
 * What was on its way did not arrive whole: no fault of what was asked for, so that what came before is kept and the same
 * asked again goes on from there. Reads as an InputError does.
 */
export class DownloadFault extends Error {
  override readonly name = 'DownloadFault';

  /** @param from what was fetched, as the person named it */
  constructor(from: string, what: string, allowed: string) {
    super(`${from}: ${what}: ${allowed}`);
  }
}
