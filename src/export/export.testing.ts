/** What the export's tests share: the reference folders, a sink in memory, and onnxruntime-web in Node. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import * as onnxruntime from 'onnxruntime-web';
import { nodeFile, nodeFolder } from '../cli/node-files.ts';
import { MemorySource, type ByteSource, type FileSource } from '../formats/byte-source.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { openModel, type Model } from '../models/model.ts';
import type { ExportSink } from './export-model.ts';
import type { OrtModule } from './verify/session.ts';
import type { ReferenceSequence } from './verify/verify.ts';

export const ort: OrtModule = onnxruntime;

const shared = path.resolve('../shared/reference');

export function hasReference(name: string): boolean {
  const there = existsSync(path.join(shared, name));
  if (!there) console.warn(`skipped: there is no ${path.join(shared, name)}`);
  return there;
}

export function referenceFolder(name: string): FileSource {
  return nodeFolder(path.join(shared, name));
}

export function referenceModel(name: string): Promise<Model> {
  return openModel(referenceFolder(name));
}

const fixtureFile = (name: string): string => `src/models/architectures/${name}.fixture.safetensors`;

/** A decoder of a few thousand numbers that PyTorch judged, with another config where asked. */
export async function fixtureModel(name: string, more: object = {}): Promise<Model> {
  const file = fixtureFile(name);
  const config = JSON.parse((await openSafetensors(await nodeFile(file))).metadata.config!) as object;
  const folder = textFolder({ 'config.json': JSON.stringify({ ...config, ...more }) });
  const open = async (path: string) => (path === 'model.safetensors' ? nodeFile(file) : folder.open(path));
  return openModel({ name, open });
}

/** Its first row, which has no padding, with PyTorch's logits. */
export async function fixtureLogits(name: string): Promise<ReferenceSequence[]> {
  const file = await openSafetensors(await nodeFile(fixtureFile(name)));
  const [, tokens, vocabulary] = file.tensors.get('base.logits')!.shape as [number, number, number];
  const input_ids = Array.from((await file.read('input.input_ids')) as Int32Array).slice(0, tokens);
  return [{ input_ids, logits: (await file.readF32('base.logits')).slice(0, tokens * vocabulary) }];
}

/** The reference's first row and a shorter beginning of it, with PyTorch's logits. */
export async function referenceLogits(name: string, variant = ''): Promise<ReferenceSequence[]> {
  const inputs = await openSafetensors(await nodeFile(path.join(shared, name, 'inputs.safetensors')));
  const expected = await openSafetensors(await nodeFile(path.join(shared, name, variant, 'expected.safetensors')));
  const [, tokens, vocabulary] = expected.tensors.get('logits')!.shape as [number, number, number];
  const ids = Array.from((await inputs.read('input_ids')) as BigInt64Array, Number);
  const logits = await expected.readF32('logits');
  return [tokens, tokens - 7].map((n) => ({ input_ids: ids.slice(0, n), logits: logits.slice(0, n * vocabulary) }));
}

export class MemorySink implements ExportSink {
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>();

  async write(file: string, content: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
    const pieces: Uint8Array[] = [];
    if (content instanceof Uint8Array) pieces.push(content);
    else for await (const piece of content) pieces.push(piece.slice());
    const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    this.files.set(file, whole);
  }

  async open(file: string): Promise<ByteSource> {
    return new MemorySource(file, this.files.get(file)!);
  }

  text(file: string): string {
    return new TextDecoder().decode(this.files.get(file));
  }

  json(file: string): Record<string, unknown> {
    return JSON.parse(this.text(file)) as Record<string, unknown>;
  }
}

/** A folder of texts. */
export function textFolder(files: Readonly<Record<string, string>>): FileSource {
  return {
    name: 'folder',
    open: async (file) =>
      Object.hasOwn(files, file)
        ? new MemorySource(`folder/${file}`, new TextEncoder().encode(files[file]))
        : undefined,
  };
}
