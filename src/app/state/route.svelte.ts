/**
 * Where the page is, told by the address after `#`: `#/train` a step, `#/kept` the storage panel, `#/bench` the
 * measuring, `#/run?bridge=TOKEN` a
 * run driven from the command line, `#recipe=…` a shared recipe (share.ts), nothing the first screen.
 */
export const PLACES = [
  'start',
  'data',
  'teacher',
  'student',
  'train',
  'evaluate',
  'export',
  'try',
  'kept',
  'bench',
] as const;
export type Place = (typeof PLACES)[number];

interface Route {
  readonly place: Place;
  /** A run that the command line drives. */
  readonly bridge?: string;
}

export function readRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?');
  const bridge = new URLSearchParams(query).get('bridge');
  if (path === 'run' && bridge) return { place: 'train', bridge };
  return { place: PLACES.find((place) => place === path) ?? 'start' };
}

let current = $state<Route>(readRoute(location.hash));

window.addEventListener('hashchange', () => {
  if (!location.hash.startsWith('#recipe=')) current = readRoute(location.hash);
});

export const route = {
  get place() {
    return current.place;
  },
  get bridge() {
    return current.bridge;
  },
};

export const hrefOf = (place: Place): string => (place === 'start' ? '#/' : `#/${place}`);

export function go(place: Place): void {
  location.hash = hrefOf(place);
  window.scrollTo(0, 0);
}
