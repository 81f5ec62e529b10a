/**
 * What the recipe names, found: a path relative to the recipe (brought into the page, or on the command line's machine),
 * `bundled:NAME`, a URL, or a name on the hub. Models from elsewhere come through the shelf, so that they come once.
 */
import type { ByteSource, FileSource } from '../formats/byte-source.ts';
import { withTokenizerOfGguf } from '../formats/gguf-tokenizer.ts';
import { InputError } from '../formats/input-error.ts';
import { isWeightsFile, loneFile } from '../formats/lone-file.ts';
import { openUrl, urlFolder } from '../formats/url-source.ts';
import type { Host, LocalFiles } from './host.ts';
import { hubModel, hubName, hubRows, type HubModel } from './hub.ts';

const ALLOWED = 'a path relative to the recipe, a hub name (hub: or modelscope:), bundled:NAME, or a URL';
const isUrl = (value: string): boolean => /^https?:\/\//.test(value);

export class Sources {
  constructor(
    private readonly host: Pick<Host, 'bundled' | 'hub' | 'shelf'>,
    private readonly local: LocalFiles,
    /** As the person named it; errors repeat it. */
    private readonly recipeFile: string,
  ) {}

  /** @param place of the recipe that names it: errors say it */
  async model(place: string, value: string, revision = 'main'): Promise<FileSource> {
    return withTokenizerOfGguf(await this.folder(place, value, revision));
  }

  private async folder(place: string, value: string, revision: string): Promise<FileSource> {
    const hub = this.hubModel(value, revision);
    if (hub) return hub;
    if (this.local.has(value)) {
      return isWeightsFile(value) ? loneFile(value, () => this.local.file(value)) : this.local.folder(value);
    }
    const bundled = bundledName(value);
    if (bundled !== undefined) return urlFolder(new URL(bundled, this.host.bundled).href, { whole: true }, value);
    if (isUrl(value)) {
      const file = isWeightsFile(new URL(value).pathname);
      const upstream = file ? loneFile(value, () => openUrl(value)) : urlFolder(value);
      return this.host.shelf.through(value, upstream);
    }
    throw this.missing(place, value);
  }

  private hubModel(value: string, revision: string): HubModel | undefined {
    const named = this.local.has(value) ? undefined : hubName(value);
    return named && hubModel(this.host.hub, named, revision, this.host.shelf.through);
  }

  /** Which commit of a hub a model was or would be taken from; undefined of one from elsewhere. */
  async commit(value: string, revision: string): Promise<string | undefined> {
    return this.hubModel(value, revision)?.commit();
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
    if (bundled !== undefined) return openUrl(new URL(bundled, this.host.bundled).href, { whole: true }, value);
    if (isUrl(value)) return openUrl(value);
    const named = hubName(value);
    return named && hubRows(this.host.hub, named);
  }

  private missing(place: string, value: string): InputError {
    return new InputError(this.recipeFile, place, `there is no ${value}`, ALLOWED);
  }
}

function bundledName(value: string): string | undefined {
  const name = value.startsWith('bundled:') ? value.slice('bundled:'.length) : undefined;
  return name !== undefined && /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(name) ? name : undefined;
}
