/**
 * How teachers' servers are reached from this page. A key belongs to the server it was typed for, lives as long as the page,
 * and is kept nowhere; on the command line it never comes here, as requests go through a door that adds it.
 */
import type { ServerAccess } from '../teacher/endpoint/server.ts';

export class Reach {
  private readonly keys = new Map<string, string>();
  /** The command line's door, to which the address is appended; undefined in a page of its own. */
  door: string | undefined;

  /** An empty key takes the server's away. */
  useKey(address: string, key: string): void {
    if (key.trim() === '') this.keys.delete(serverOf(address));
    else this.keys.set(serverOf(address), key.trim());
  }

  hasKey(address: string): boolean {
    return this.keys.has(serverOf(address));
  }

  of(address: string): ServerAccess {
    const { door } = this;
    const key = this.keys.get(serverOf(address));
    return {
      headers: key === undefined ? {} : { Authorization: `Bearer ${key}` },
      through: (url) => (door === undefined ? url : door + encodeURIComponent(url)),
    };
  }
}

function serverOf(address: string): string {
  try {
    return new URL(address).origin;
  } catch {
    return address;
  }
}
