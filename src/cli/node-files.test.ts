import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readText } from '../formats/byte-source.ts';
import { InputError } from '../formats/input-error.ts';
import { nodeFile, nodeFolder, nodeModel } from './node-files.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'stillroom-files-'));
  await mkdir(path.join(dir, 'model/onnx'), { recursive: true });
  await writeFile(path.join(dir, 'model/config.json'), '{"a": 1}');
  await writeFile(path.join(dir, 'model/onnx/model.onnx'), 'onnx');
  await writeFile(path.join(dir, 'secret'), 'secret');
});
afterEach(() => rm(dir, { recursive: true }));

test('a folder lists and opens its files, and nothing outside it', async () => {
  const folder = nodeFolder(path.join(dir, 'model'), 'model');
  expect(await folder.list!()).toEqual(['config.json', 'onnx/model.onnx']);
  const config = (await folder.open('config.json'))!;
  expect(config.name).toBe('model/config.json');
  expect(await readText(config)).toBe('{"a": 1}');
  expect(new TextDecoder().decode(await config.read(1, 4))).toBe('"a"');
  await expect(config.read(0, 9)).rejects.toThrow(RangeError);
  expect(await folder.open('absent')).toBeUndefined();
  expect(await folder.open('onnx')).toBeUndefined();
  await expect(folder.open('../secret')).rejects.toThrow('model: ../secret: it leads out of the folder');
  await expect(folder.open(path.join(dir, 'secret'))).rejects.toThrow(InputError);
  expect(await nodeFolder(path.join(dir, 'nowhere')).list!()).toEqual([]);
});

test('a model is its folder, or its weights alone', async () => {
  await writeFile(path.join(dir, 'model/small.gguf'), 'weights');
  await writeFile(path.join(dir, 'model/large.gguf'), 'weights too');
  expect(await nodeModel(path.join(dir, 'model')).list!()).toContain('small.gguf');
  await mkdir(path.join(dir, 'a folder.gguf'));
  await writeFile(path.join(dir, 'a folder.gguf/config.json'), '{}');
  expect(await nodeModel(path.join(dir, 'a folder.gguf')).list!()).toEqual(['config.json']);
  const alone = nodeModel(path.join(dir, 'model/small.gguf'));
  expect(await alone.list!()).toEqual(['small.gguf']);
  expect((await alone.open('small.gguf'))?.size).toBe(7);
  expect(await alone.open('large.gguf')).toBeUndefined();
  expect(await alone.open('config.json')).toBeUndefined();
  expect(await nodeModel(path.join(dir, 'absent.gguf')).open('absent.gguf')).toBeUndefined();
});

test('a file that is not there, or that shrinks while it is read, is said so', async () => {
  await expect(nodeFile(path.join(dir, 'absent'), 'absent')).rejects.toThrow('absent: there is no such file');
  const config = path.join(dir, 'model/config.json');
  const file = await nodeFile(config);
  await truncate(config, 3);
  await expect(file.read(0, 8)).rejects.toThrow('it became shorter');
  await symlink('loop', path.join(dir, 'loop'));
  await expect(nodeFile(path.join(dir, 'loop'))).rejects.toThrow(InputError);
});
