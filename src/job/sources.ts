/**
 * What the recipe names, found: a path relative to the recipe (brought into the page, or on the command line's machine),
 * `bundled:NAME`, a URL, or a name on the hub. Models from elsewhere come through the shelf, so that they come once.
 */
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { openUrl, urlFolder } from '../formats/url-source.ts';
import type { Host, LocalFiles } from './host.ts';

const ALLOWED = 'a path relative to the recipe, a hub name, bundled:NAME, or a URL';
const isUrl = (value: string): boolean => /^https?:\/\//.test(value);
const isHubName = (value: string): boolean => /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(value);
const isWeightsFile = (value: string): boolean => /\.(gguf|safetensors)$/.test(value);

export class Sources {
  constructor(
    private readonly host: Pick<Host, 'bundled' | 'hub' | 'shelf'>,
    private readonly local: LocalFiles,
    /** As the person named it; errors repeat it. */
    private readonly recipeFile: string,
  ) {}

  /** @param place of the recipe that names it: errors say it */
  async model(place: string, value: string, revision = 'main'): Promise<FileSource> {
    if (this.local.has(value)) {
      return isWeightsFile(value) ? loneFile(value, () => this.local.file(value)) : this.local.folder(value);
    }
    const bundled = bundledName(value);
    if (bundled !== undefined) return urlFolder(new URL(bundled, this.host.bundled).href, {}, value);
    if (isUrl(value)) {
      const file = isWeightsFile(new URL(value).pathname);
      const upstream = file ? loneFile(value, () => openUrl(value)) : urlFolder(value);
      return this.host.shelf.through(value, upstream);
    }
    if (!isHubName(value)) throw this.missing(place, value);
    return this.host.shelf.through(`${value}@${revision}`, hubModel(this.host.hub, value, revision));
  }

  /** A single file: rows, or a cache. */
  async file(place: string, value: string): Promise<ByteSource> {
    const source = await this.open(value);
    if (!source) throw this.missing(place, value);
    return source;
  }

  private async open(value: string): Promise<ByteSource | undefined> {
    if (this.local.has(value)) return this.local.file(value);
    const bundled = bundledName(value);
    if (bundled !== undefined) return openUrl(new URL(bundled, this.host.bundled).href, {}, value);
    if (isUrl(value)) return openUrl(value);
    if (!isHubName(value)) return undefined;
    const path = await trainingRows(this.host.hub, value);
    return openUrl(`${this.host.hub}/datasets/${value}/resolve/main/${path}`, {}, `${value}/${path}`);
  }

  private missing(place: string, value: string): InputError {
    return new InputError(this.recipeFile, place, `there is no ${value}`, ALLOWED);
  }
}

function bundledName(value: string): string | undefined {
  const name = value.startsWith('bundled:') ? value.slice('bundled:'.length) : undefined;
  return name !== undefined && /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(name) ? name : undefined;
}

/** One weights file as a model folder with nothing else in it. */
function loneFile(value: string, open: () => Promise<ByteSource | undefined>): FileSource {
  const name = value.slice(value.lastIndexOf('/') + 1);
  return {
    name: value,
    open: async (path) => (path === name ? open() : undefined),
    list: async () => [name],
  };
}

function hubModel(hub: string, name: string, revision: string): FileSource {
  return {
    ...urlFolder(`${hub}/${name}/resolve/${encodeURIComponent(revision)}/`, {}, name),
    list: () => siblings(`${hub}/api/models/${name}/revision/${encodeURIComponent(revision)}`, name),
  };
}

/** Of a data set on the hub the JSONL of its training rows: the one that says so, else the only one. */
async function trainingRows(hub: string, name: string): Promise<string> {
  const files = (await siblings(`${hub}/api/datasets/${name}`, name)).filter((path) => /\.jsonl?$/.test(path));
  const chosen = files.find((path) => /(^|[/_-])train/.test(path)) ?? (files.length === 1 ? files[0] : undefined);
  if (chosen !== undefined) return chosen;
  const found = files.length === 0 ? 'it has no .jsonl file' : `it has ${files.length} .jsonl files, none called train`;
  throw new InputError(name, '', found, 'the address of one of its files, as a URL');
}

async function siblings(url: string, name: string): Promise<string[]> {
  const response = await fetch(url).catch((error: Error) => {
    throw new InputError(
      name,
      '',
      `the hub could not be asked (${error.message})`,
      'a network, or a model kept before',
    );
  });
  if (!response.ok) throw new InputError(name, '', `the hub answered ${response.status}`, 'a public name on the hub');
  const { siblings = [] } = (await response.json()) as { siblings?: { rfilename: string }[] };
  return siblings.map((file) => file.rfilename).sort();
}
