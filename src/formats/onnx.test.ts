import fc from 'fast-check';
import { InferenceSession, Tensor, env } from 'onnxruntime-web';
import { describe, expect, test } from 'vitest';
import { collectBytes, MemorySource, type FileSource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { readDamaged, readsOrRefuses } from './mutation.testing.ts';
import { openOnnx } from './onnx-read.ts';
import { encodeOnnx } from './onnx-write.ts';
import {
  isExternal,
  onnxBytes,
  onnxTypes,
  readOnnxF32,
  readOnnxTensor,
  type OnnxAttribute,
  type OnnxGraph,
  type OnnxModel,
  type OnnxTensor,
  type OnnxType,
  type OnnxValue,
} from './onnx.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const open = (bytes: Bytes) => openOnnx(new MemorySource('m.onnx', bytes));
const write = async (model: OnnxModel) => collectBytes(encodeOnnx(model).data());

const f32 = (name: string, dims: number[], values: Iterable<number>): OnnxTensor => ({
  name,
  dtype: 'FLOAT',
  dims,
  data: new Uint8Array(Float32Array.from(values).buffer),
});

const model = (graph: Partial<OnnxGraph>): OnnxModel => ({
  ir_version: 9,
  producer_name: 'stillroom',
  producer_version: '',
  opsets: { '': 18 },
  metadata: {},
  graph: { name: 'g', nodes: [], initializers: [], inputs: [], outputs: [], values: [], ...graph },
  unread: [],
});

const name = fc.string({ unit: 'binary', maxLength: 8 });
const value: fc.Arbitrary<OnnxValue> = fc.record({
  name,
  dtype: fc.option(fc.constantFrom<OnnxType>('FLOAT', 'INT64', 'FLOAT16'), { nil: undefined }),
  shape: fc.option(fc.array(fc.oneof(fc.nat(), name, fc.constant(null))), { nil: undefined }),
});
const values = fc.array(
  value.map((v) => (v.dtype === undefined ? { ...v, shape: undefined } : v)),
  { maxLength: 3 },
);
const tensor: fc.Arbitrary<OnnxTensor> = fc
  .record({
    name,
    dtype: fc.constantFrom(...(Object.keys(onnxTypes) as OnnxType[]).filter((type) => type !== 'STRING')),
    dims: fc.array(fc.nat(3), { maxLength: 3 }),
  })
  .chain(({ name, dtype, dims }) => {
    const length = onnxBytes(dtype, dims)!;
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((data) => ({ name, dtype, dims, data: Uint8Array.from(data) }));
  });
const tensors = fc.uniqueArray(tensor, { selector: (t) => t.name, maxLength: 4 });
const { graph } = fc.letrec<{ graph: OnnxGraph; attribute: OnnxAttribute }>((tie) => ({
  attribute: fc.oneof(
    { depthSize: 'small' },
    fc.record({ name, type: fc.constant('float' as const), value: fc.float({ noNaN: true }) }),
    fc.record({ name, type: fc.constant('int' as const), value: fc.maxSafeInteger() }),
    fc.record({ name, type: fc.constant('int' as const), value: fc.constantFrom(2n ** 63n - 1n, -(2n ** 63n)) }),
    fc.record({ name, type: fc.constant('string' as const), value: name }),
    fc.record({ name, type: fc.constant('string' as const), value: fc.constant(Uint8Array.of(255, 254)) }),
    fc.record({ name, type: fc.constant('floats' as const), value: fc.array(fc.float({ noNaN: true })) }),
    fc.record({ name, type: fc.constant('ints' as const), value: fc.array(fc.maxSafeInteger()) }),
    fc.record({ name, type: fc.constant('strings' as const), value: fc.array(name) }),
    fc.record({ name, type: fc.constant('tensor' as const), value: tensor }),
    fc.record({ name, type: fc.constant('graph' as const), value: tie('graph') }),
  ),
  graph: fc.record({
    name,
    nodes: fc.array(
      fc.record({
        name,
        op_type: name,
        domain: name,
        inputs: fc.array(name, { maxLength: 3 }),
        outputs: fc.array(name, { maxLength: 2 }),
        attributes: fc.array(tie('attribute'), { maxLength: 3 }),
      }),
      { maxLength: 3, depthIdentifier: 'graph' },
    ),
    initializers: tensors,
    inputs: values,
    outputs: values,
    values,
  }),
}));

describe('round trip', () => {
  test('any model comes back', async () => {
    const models = fc.record({
      ir_version: fc.integer({ min: 1, max: 20 }),
      producer_name: name,
      producer_version: name,
      opsets: fc.dictionary(name, fc.nat(30)),
      metadata: fc.dictionary(name, name),
      graph,
      unread: fc.constant([]),
    });
    await fc.assert(
      fc.asyncProperty(models, async (model) => {
        const { bytes, data } = encodeOnnx(model);
        const file = await collectBytes(data());
        expect(file.length).toBe(bytes);
        const back = await open(file);
        expect(Object.entries(back.opsets).sort()).toEqual(Object.entries(model.opsets).sort());
        expect({ ...back, opsets: 0, metadata: { ...back.metadata } }).toEqual({
          ...model,
          opsets: 0,
          metadata: { ...model.metadata },
        });
      }),
      { numRuns: 300 },
    );
  });

  test('large initializers are streamed in and left in the file', async () => {
    const large = Float32Array.from({ length: 100_000 }, (_, i) => i / 7);
    async function* pieces(): AsyncGenerator<Bytes> {
      for (let at = 0; at < large.length; at += 30_000) yield new Uint8Array(large.slice(at, at + 30_000).buffer);
    }
    const small = f32('small', [2], [1, 2]);
    const source = model({
      initializers: [
        small,
        { name: 'large', dtype: 'FLOAT', dims: [100, 1000], data: pieces },
        { ...small, name: 'last' },
      ],
    });
    const bytes = await write(source);
    let most = 0;
    const memory = new MemorySource('m.onnx', bytes);
    const read = await openOnnx({
      name: 'm.onnx',
      size: bytes.length,
      read(start, end) {
        most = Math.max(most, end - start);
        return memory.read(start, end);
      },
    });
    expect(most).toBeLessThanOrEqual(256 * 1024);
    expect(read.graph.initializers.map((tensor) => tensor.name)).toEqual(['small', 'large', 'last']);
    const back = await readOnnxF32('m.onnx', read.graph.initializers[1]!);
    expect(Buffer.compare(Buffer.from(back.buffer), Buffer.from(large.buffer))).toBe(0);
    expect(Buffer.compare(await write(read), bytes)).toBe(0);
  });

  test('the writer refuses data that are not of their dims', async () => {
    const short = { ...f32('w', [3], [1, 2]) };
    await expect(write(model({ initializers: [short] }))).rejects.toThrow('tensor w: its data are not the 12 bytes');
    const attribute: OnnxAttribute = { name: 'value', type: 'tensor', value: short };
    const node = { name: '', op_type: 'Constant', domain: '', inputs: [], outputs: ['y'], attributes: [attribute] };
    await expect(write(model({ nodes: [node] }))).rejects.toThrow('tensor w');
    const huge: OnnxTensor = { name: 'w', dtype: 'FLOAT', dims: [2 ** 30], data: () => new Uint8Array(0) };
    expect(() => encodeOnnx(model({ initializers: [huge] }))).toThrow('protobuf holds 2147483647');
  });
});

test('ONNX Runtime runs what is written', async () => {
  const bytes = await write({
    ...model({
      nodes: [
        { name: 'mul', op_type: 'MatMul', domain: '', inputs: ['x', 'w'], outputs: ['xw'], attributes: [] },
        {
          name: 'concat',
          op_type: 'Concat',
          domain: '',
          inputs: ['xw', 'x'],
          outputs: ['y'],
          attributes: [{ name: 'axis', type: 'int', value: -1 }],
        },
      ],
      initializers: [f32('w', [2, 2], [1, 2, 3, 4])],
      inputs: [{ name: 'x', dtype: 'FLOAT', shape: ['rows', 2] }],
      outputs: [{ name: 'y', dtype: 'FLOAT', shape: ['rows', 4] }],
    }),
    metadata: { by: 'stillroom' },
  });
  env.wasm.numThreads = 1;
  const session = await InferenceSession.create(bytes);
  const { y } = await session.run({ x: new Tensor('float32', [1, 1, 0, 1], [2, 2]) });
  expect([...(y!.data as Float32Array)]).toEqual([4, 6, 1, 1, 3, 4, 0, 1]);
  await session.release();
});

/** Made by the Python package onnx 1.23: tensors of typed data, an If with graphs in it, opsets, metadata. */
const python = Uint8Array.from(
  Buffer.from(
    'CAkSBG9ubngaBjEuMjMuMjqIBQq8AQoEY29uZBIBeRoGY2hvb3NlIgJJZipQCgtlbHNlX2JyYW5jaDI+CiUSAWUiCENvbnN0YW50' +
      'KhYKDHZhbHVlX2Zsb2F0cz0AAKBAoAEGEgRlbHNlYg8KAWUSCgoICAESBAoCCAGgAQUqUwoLdGhlbl9icmFuY2gyQQooEgF0IghD' +
      'b25zdGFudCoZCgV2YWx1ZSoNCAEQASIEAACAQEIBY6ABBBIEdGhlbmIPCgF0EgoKCAgBEgQKAggBoAEFCi8KAXkKA2k2NBIBeiIH' +
      'UmVzaGFwZSoQCglhbGxvd3plcm8YAaABAjoHYWkub25ueApzCgF6CgASAXciAVgqCwoBYRUAAAA/oAEBKhEKAmZzPQAAgD89AAAA' +
      'QKABBioaCgNpc19A////////////AUCAgICAgCCgAQcqDAoBcyIEdGV4dKABAyoNCgJzc0oBYUoBYqABCDoNY29tLm1pY3Jvc29m' +
      'dBIEbWFpbioTCAIQASIIAADAPwAAAMBCA2YzMioQCAIQCioFgHyAgANCA2YxNiofCAMQBzoUAf///////////wGAgICAgICAgEBC' +
      'A2k2NCoNCAIQAioDAf8BQgJ1OCoNCAMQFioD8QEHQgJpNCoVCAEQDUIDdTY0WgqAgICAgICAgIABKhMIARALQgNmNjRSCJqZmZmZ' +
      'mbk/KgsIAhAJKgIBAEIBYiolCAIIAxABQgNyYXdKGAAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQCoNCAEQECoDwIABQgJiZloOCgRj' +
      'b25kEgYKBAgJEgBaGgoBeBIVChMIBxIPCgcSBWJhdGNoCgIIAgoAYgkKAXcSBAoCCAFqDwoBeRIKCggIARIECgIIAUIECgAQEkIR' +
      'Cg1jb20ubWljcm9zb2Z0EAFyBgoBYRIBYg==',
    'base64',
  ),
);

test('reads what the Python package onnx wrote', async () => {
  const read = await open(python);
  expect(read).toMatchObject({
    ir_version: 9,
    producer_name: 'onnx',
    opsets: { '': 18, 'com.microsoft': 1 },
    metadata: { a: 'b' },
    unread: [],
  });
  const bytes: Record<string, number[]> = {};
  for (const tensor of read.graph.initializers) {
    bytes[tensor.name] = [...(await readOnnxTensor('m.onnx', tensor))];
  }
  expect(bytes).toEqual({
    f32: [0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0],
    f16: [0, 0x3e, 0, 0xc0],
    i64: [1, 0, 0, 0, 0, 0, 0, 0, ...new Array<number>(8).fill(255), 0, 0, 0, 0, 0, 0, 0, 0x40],
    u8: [1, 255],
    i4: [0xf1, 0x07],
    u64: [0, 0, 0, 0, 0, 0, 0, 0x80],
    f64: [...new Uint8Array(Float64Array.of(0.1).buffer)],
    b: [1, 0],
    raw: [...new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer)],
    bf: [0x40, 0x40],
  });
  const [choose, reshape, other] = read.graph.nodes;
  expect(choose!.attributes.map(({ name, type }) => [name, type])).toEqual([
    ['else_branch', 'graph'],
    ['then_branch', 'graph'],
  ]);
  const then = choose!.attributes[1]!.value as OnnxGraph;
  const constant = then.nodes[0]!.attributes[0]!.value as OnnxTensor;
  expect([...(await readOnnxF32('m.onnx', constant))]).toEqual([4]);
  expect(reshape!.domain).toBe('');
  expect(other!.inputs).toEqual(['z', '']);
  expect(Object.fromEntries(other!.attributes.map(({ name, value }) => [name, value]))).toEqual({
    a: 0.5,
    s: 'text',
    ss: ['a', 'b'],
    fs: [1, 2],
    is_: [-1, 2 ** 40],
  });
  expect(read.graph.inputs).toEqual([
    { name: 'cond', dtype: 'BOOL', shape: [] },
    { name: 'x', dtype: 'INT64', shape: ['batch', 2, null] },
  ]);
  expect(read.graph.outputs[0]!.shape).toBeUndefined();
  expect(read.graph.values.map((value) => value.name)).toEqual(['y']);
});

describe('external data', () => {
  const external = (location: string, offset = 4, length = 8): OnnxTensor => ({
    name: 'w',
    dtype: 'FLOAT',
    dims: [2],
    data: { location, offset, length },
  });
  const beside: FileSource = {
    name: 'folder',
    async open(path) {
      if (path !== 'm.onnx_data') return undefined;
      return new MemorySource(path, new Uint8Array(Float32Array.of(9, 1, 2).buffer));
    },
  };

  test('lie in the file beside, at their offset', async () => {
    const read = await open(await write(model({ initializers: [external('m.onnx_data')] })));
    const [tensor] = read.graph.initializers as [OnnxTensor];
    expect(isExternal(tensor.data)).toBe(true);
    expect([...(await readOnnxF32('m.onnx', tensor, beside))]).toEqual([1, 2]);
    await expect(readOnnxTensor('m.onnx', tensor)).rejects.toThrow('m.onnx_data, which is missing');
    await expect(readOnnxTensor('m.onnx', external('m.onnx_data', 8), beside)).rejects.toThrow('end at byte 16 of 12');
    await expect(readOnnxTensor('m.onnx', external('../m'), beside)).rejects.toThrow('a bare file name');
  });

  test.each(['../../etc/passwd', '/etc/passwd', 'a/b', 'a\\b', 'C:x', '..', '.'])('never in %j', async (location) => {
    expect(() => encodeOnnx(model({ initializers: [external(location)] }))).toThrow("can't hold it");
    const bytes = await write(model({ initializers: [external('x'.repeat(location.length))] }));
    // The name in the file, changed to a path of the same length.
    bytes.set(new TextEncoder().encode(location), Buffer.from(bytes).indexOf('xx'.slice(0, location.length)));
    const error = await open(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(InputError);
  });
});

describe('bad files', async () => {
  const large: OnnxTensor = { name: 'large', dtype: 'FLOAT', dims: [20_000], data: new Uint8Array(80_000) };
  const small = await write(
    model({
      nodes: [
        {
          name: 'n',
          op_type: 'Add',
          domain: '',
          inputs: ['x', 'w'],
          outputs: ['y'],
          attributes: [
            { name: 'a', type: 'ints', value: [1, 2] },
            { name: 't', type: 'tensor', value: f32('t', [1], [1]) },
          ],
        },
      ],
      initializers: [f32('w', [2], [1, 2])],
      inputs: [{ name: 'x', dtype: 'FLOAT', shape: ['n', 2] }],
      outputs: [{ name: 'y', dtype: 'FLOAT', shape: ['n', 2] }],
    }),
  );
  const withLarge = await write(model({ initializers: [large] }));

  async function readEverything(bytes: Bytes): Promise<void> {
    const read = await open(bytes);
    for (const tensor of read.graph.initializers) if (tensor.dtype !== 'STRING') await readOnnxTensor('m.onnx', tensor);
  }

  test('cut at every byte inside the graph it is refused', async () => {
    const graphStart = small.length - encodeOnnxGraphBytes(small);
    for (let length = graphStart; length < small.length; length++) {
      expect(await readsOrRefuses(length, () => readEverything(small.slice(0, length))), `${length}`).toBe(false);
    }
    expect(await readsOrRefuses(0, () => readEverything(new Uint8Array(0)))).toBe(false);
  });

  test('a tensor of a petabyte allocates nothing', async () => {
    // dims 2^45 (varint), type FLOAT, name w, and four bytes of raw data or one float
    const dims = [0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x08, 0x10, 1, 0x42, 1, 0x77];
    for (const data of [[0x4a, 4, 0, 0, 0, 0], [0x22, 4, 0, 0, 0, 0], []]) {
      const tensor = [...dims, ...data];
      const file = Uint8Array.from([0x3a, tensor.length + 2, 0x2a, tensor.length, ...tensor]);
      await expect(open(file)).rejects.toThrow(/tensor w: it has \d+ bytes of data/);
    }
  });

  test('graphs in graphs in graphs are refused', async () => {
    let inner: OnnxGraph = model({}).graph;
    for (let depth = 0; depth < 20; depth++) {
      const attribute: OnnxAttribute = { name: 'body', type: 'graph', value: inner };
      const node = { name: '', op_type: 'Loop', domain: '', inputs: [], outputs: [], attributes: [attribute] };
      inner = { ...model({}).graph, nodes: [node] };
    }
    await expect(open(await write(model(inner)))).rejects.toThrow('graphs in graphs: at most 16 deep');
  });

  test('a million empty nodes are refused before they fill the memory', async () => {
    const nodes = new Uint8Array(2_000_000);
    for (let at = 0; at < nodes.length; at += 2) nodes[at] = 0x0a;
    const length = [
      0x80 | (nodes.length & 127),
      0x80 | ((nodes.length >> 7) & 127),
      0x80 | ((nodes.length >> 14) & 127),
      nodes.length >> 21,
    ];
    const file = Uint8Array.from([0x3a, ...length, ...nodes]);
    await expect(open(file)).rejects.toThrow('it has too many parts: at most 500000');
  });

  test('3,000 damaged files are read or refused, never worse', async () => {
    const outcomes = await readDamaged([small, python, python, withLarge], 3000, readEverything);
    expect(outcomes.refused).toBeGreaterThan(500);
    expect(outcomes.read).toBeGreaterThan(200);
  });
});

/** Bytes of the graph message, which closes the file: its length stands behind tag 7 (0x3a). */
function encodeOnnxGraphBytes(file: Bytes): number {
  const at = file.indexOf(0x3a, 10);
  return (file[at + 1]! & 127) | (file[at + 1]! & 128 ? file[at + 2]! << 7 : 0);
}
