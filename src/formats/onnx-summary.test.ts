/** Summaries of ONNX files: one written field by field here, and anything at all. */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemorySource } from './byte-source.ts';
import { InputError } from './input-error.ts';
import { summarizeOnnx } from './onnx-summary.ts';

type Write = (writer: BinaryWriter) => void;
const message = (writer: BinaryWriter, field: number, write: Write) => {
  writer.tag(field, WireType.LengthDelimited).fork();
  write(writer);
  writer.join();
};
const text = (writer: BinaryWriter, field: number, value: string) =>
  writer.tag(field, WireType.LengthDelimited).string(value);
const number = (writer: BinaryWriter, field: number, value: number) => writer.tag(field, WireType.Varint).int64(value);

const valueInfo = (name: string, type: number, dims: (number | string)[]): Write => {
  return (value) => {
    text(value, 1, name);
    message(value, 2, (kind) =>
      message(kind, 1, (tensor) => {
        number(tensor, 1, type);
        message(tensor, 2, (shape) => {
          for (const dim of dims) {
            message(shape, 1, (one) => (typeof dim === 'number' ? number(one, 1, dim) : text(one, 2, dim)));
          }
        });
      }),
    );
  };
};

function model(): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  number(writer, 1, 10);
  text(writer, 2, 'stillroom');
  message(writer, 8, (opset) => number(opset, 2, 21));
  message(writer, 8, (opset) => {
    text(opset, 1, 'com.microsoft');
    number(opset, 2, 1);
  });
  message(writer, 7, (graph) => {
    for (const [type, domain] of [['MatMul'], ['MatMul'], ['MatMulNBits', 'com.microsoft']]) {
      message(graph, 1, (node) => {
        text(node, 1, 'x');
        text(node, 4, type!);
        if (domain !== undefined) text(node, 7, domain);
      });
    }
    message(graph, 5, (tensor) => {
      tensor.tag(1, WireType.LengthDelimited).fork().int64(300).int64(4).join();
      number(tensor, 2, 1);
      text(tensor, 8, 'w');
      tensor.tag(9, WireType.LengthDelimited).bytes(new Uint8Array(4800));
    });
    message(graph, 5, (tensor) => {
      number(tensor, 1, 2);
      number(tensor, 1, 3);
      number(tensor, 2, 10);
      text(tensor, 8, 'h');
      message(tensor, 13, (entry) => {
        text(entry, 1, 'location');
        text(entry, 2, 'model.onnx_data');
      });
      number(tensor, 14, 1);
    });
    message(graph, 11, valueInfo('input_ids', 7, ['batch_size', 'sequence_length']));
    message(graph, 11, valueInfo('w', 1, [300, 4]));
    message(graph, 12, valueInfo('logits', 1, ['batch_size', 'sequence_length', 211]));
  });
  return Uint8Array.from(writer.finish());
}

describe('summarizeOnnx', () => {
  it('tells what is in a file', async () => {
    expect(await summarizeOnnx(new MemorySource('model.onnx', model()))).toEqual({
      ir_version: 10,
      producer: 'stillroom',
      opsets: { '': 21, 'com.microsoft': 1 },
      operators: { MatMul: 2, 'com.microsoft.MatMulNBits': 1 },
      inputs: [{ name: 'input_ids', type: 'INT64', shape: ['batch_size', 'sequence_length'] }],
      outputs: [{ name: 'logits', type: 'FLOAT', shape: ['batch_size', 'sequence_length', 211] }],
      parameters: 1206,
      dtypes: { FLOAT: 1, FLOAT16: 1 },
      external: ['model.onnx_data'],
    });
  });

  it('refuses every cut, and crashes on no damage', async () => {
    const whole = model();
    for (let length = 0; length < whole.length; length += 7) {
      const cut = summarizeOnnx(new MemorySource('cut.onnx', whole.slice(0, length)));
      await expect(cut).rejects.toBeInstanceOf(InputError);
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.nat(255), async (at, value) => {
        const damaged = Uint8Array.from(whole);
        damaged[at] = value;
        const outcome = await summarizeOnnx(new MemorySource('damaged.onnx', damaged)).catch((error: unknown) => error);
        if (outcome instanceof Error) expect(outcome).toBeInstanceOf(InputError);
      }),
      { numRuns: 2000 },
    );
  });
});
