/**
 * Models and rows by name: on Hugging Face (`hub:owner/name`, or the name alone) and on ModelScope (`modelscope:owner/name`),
 * or on a mirror of either. A branch or tag is looked up once and stands for that commit from then on, so that a download
 * that goes on next week does not mix two versions.
 */
import { MemorySource, readText, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { fetchJson, openUrl, type UrlOptions } from '../formats/url-source.ts';

export interface HubSettings {
  /** Addresses without a slash at their end. */
  readonly huggingface: string;
  readonly modelscope: string;
  /** For gated or private models on Hugging Face alone; never kept. ModelScope takes tokens as a cookie, which no page can send. */
  readonly token?: string;
}

/** Settings as a person typed them: addresses without a slash at their end, no empty token; refused where they are none. */
export function checked({ huggingface, modelscope, token }: HubSettings): HubSettings {
  const address = (field: string, value: string): string => {
    const plain = value.trim().replace(/\/+$/, '');
    if (/^https?:\/\/[^\s/]+/.test(plain)) return plain;
    throw new InputError('hubs', field, `"${value}" is no address`, 'one that begins with https://');
  };
  return {
    huggingface: address('huggingface', huggingface),
    modelscope: address('modelscope', modelscope),
    ...(token?.trim() && { token: token.trim() }),
  };
}

/** What holds where nobody has set anything. */
export const HUBS: HubSettings = { huggingface: 'https://huggingface.co', modelscope: 'https://modelscope.cn' };

/** The setting under which mirrors are kept; a token never is. */
export const MIRRORS = 'hubs';

export interface HubName {
  readonly hub: 'huggingface' | 'modelscope';
  /** `owner/name`, or `name` alone for a few old ones. */
  readonly name: string;
}

/** undefined where it is no name on a hub. */
export function hubName(value: string): HubName | undefined {
  const [, prefix, name] = /^(?:(hub|modelscope):)?([\w-][\w.-]*(?:\/[\w-][\w.-]*)?)$/.exec(value) ?? [];
  return name === undefined ? undefined : { hub: prefix === 'modelscope' ? 'modelscope' : 'huggingface', name };
}

/** A name as Hugging Face and what reads from it have it: without `hub:`; anything else as it is. */
export const plainName = (value: string): string => value.replace(/^hub:/, '');

/** What a hub says of a version of a model: its commit, and its files with their SHA-256 where it states one. */
interface Version {
  readonly commit: string;
  readonly files: Readonly<Record<string, string | null>>;
}

/** Where that is kept among a model's files: what is there and what is not is known without a network too. */
const VERSION = '.version.json';

export interface HubModel extends FileSource {
  /** That its branch or tag stood for when it was looked up; ModelScope names none. */
  commit(): Promise<string | undefined>;
}

/**
 * @param through puts what is kept of the model in front of the hub
 * @param revision a branch, tag or commit
 */
export function hubModel(
  settings: HubSettings,
  named: HubName,
  revision: string,
  through: (name: string, upstream: FileSource) => FileSource,
  options: UrlOptions = {},
): HubModel {
  const { hub, name } = named;
  const asked = { ...options, headers: authorization(hub, settings) };
  let known: Promise<Version> | undefined;
  const version = (): Promise<Version> => {
    known ??= readVersion();
    known.catch(() => (known = undefined));
    return known;
  };
  const readVersion = async (): Promise<Version> => JSON.parse(await readText((await kept.open(VERSION))!)) as Version;

  const upstream: FileSource = {
    name,
    async open(path) {
      if (path === VERSION) {
        const found = await lookUp(settings, named, revision, asked);
        return new MemorySource(VERSION, new TextEncoder().encode(JSON.stringify(found)));
      }
      const { commit, files } = await version();
      if (!Object.hasOwn(files, path)) return undefined;
      const source = await openUrl(addressOf(settings, named, commit, path), asked, `${name}/${path}`);
      return source && withHash(source, files[path] ?? undefined);
    },
    list: async () => Object.keys((await version()).files).sort(),
  };
  const prefix = hub === 'modelscope' ? 'modelscope:' : '';
  const kept = through(`${prefix}${name}@${revision}`, upstream);
  return {
    name,
    open: (path) => kept.open(path),
    list: upstream.list!,
    commit: async () => (hub === 'modelscope' ? undefined : (await version()).commit),
  };
}

/** The JSONL of a data set's training rows: the file that says so, else the only one. */
export async function hubRows(
  settings: HubSettings,
  { hub, name }: HubName,
  options: UrlOptions = {},
): Promise<ByteSource | undefined> {
  const asked = { ...options, headers: authorization(hub, settings) };
  if (hub === 'modelscope') {
    throw new InputError(name, '', 'rows are not read from ModelScope by name', 'the address of the file, as a URL');
  }
  const { siblings = [] } = (await fetchJson(`${settings.huggingface}/api/datasets/${name}`, asked, name)) as Siblings;
  const files = siblings.map(({ rfilename }) => rfilename).filter((path) => /\.jsonl?$/.test(path));
  const chosen = files.find((path) => /(^|[/_-])train/.test(path)) ?? (files.length === 1 ? files[0] : undefined);
  if (chosen === undefined) {
    const found =
      files.length === 0 ? 'it has no .jsonl file' : `it has ${files.length} .jsonl files, none called train`;
    throw new InputError(name, '', found, 'the address of one of its files, as a URL');
  }
  return openUrl(`${settings.huggingface}/datasets/${name}/resolve/main/${chosen}`, asked, `${name}/${chosen}`);
}

interface Siblings {
  readonly sha?: string;
  readonly siblings?: readonly { readonly rfilename: string; readonly lfs?: { readonly sha256?: string } }[];
}
interface RepoFiles {
  readonly Data?: {
    readonly Files?: readonly { readonly Path: string; readonly Type: string; readonly Sha256?: string }[];
  };
}

async function lookUp(
  settings: HubSettings,
  { hub, name }: HubName,
  revision: string,
  options: UrlOptions,
): Promise<Version> {
  if (hub === 'modelscope') {
    const commit = branch(revision);
    const query = `Revision=${encodeURIComponent(commit)}&Recursive=true`;
    const answer = await fetchJson(`${settings.modelscope}/api/v1/models/${name}/repo/files?${query}`, options, name);
    const files = ((answer as RepoFiles).Data?.Files ?? []).filter(({ Type }) => Type !== 'tree');
    return { commit, files: Object.fromEntries(files.map(({ Path, Sha256 }) => [Path, Sha256 || null])) };
  }
  const url = `${settings.huggingface}/api/models/${name}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const { sha, siblings = [] } = (await fetchJson(url, options, name)) as Siblings;
  const files = siblings.map(({ rfilename, lfs }) => [rfilename, lfs?.sha256 ?? null]);
  return { commit: sha ?? revision, files: Object.fromEntries(files) as Version['files'] };
}

function addressOf(settings: HubSettings, { hub, name }: HubName, revision: string, path: string): string {
  if (hub === 'modelscope') {
    const query = `Revision=${encodeURIComponent(branch(revision))}&FilePath=${encodeURIComponent(path)}`;
    return `${settings.modelscope}/api/v1/models/${name}/repo?${query}`;
  }
  const file = path.split('/').map(encodeURIComponent).join('/');
  return `${settings.huggingface}/${name}/resolve/${encodeURIComponent(revision)}/${file}`;
}

/** ModelScope's first branch has another name. */
const branch = (revision: string): string => (revision === 'main' ? 'master' : revision);

const authorization = (hub: HubName['hub'], { token }: HubSettings): Record<string, string> =>
  token && hub === 'huggingface' ? { Authorization: `Bearer ${token}` } : {};

function withHash(source: ByteSource, sha256: string | undefined): ByteSource {
  const { name, size, at_hand, in_order } = source;
  return { name, size, sha256, at_hand, in_order, read: (start, end) => source.read(start, end) };
}
