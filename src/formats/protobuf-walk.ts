/**
 * The fields of protobuf messages. One that lies in a file is walked without reading what its fields hold: a gigabyte
 * costs a tag and a length, and bytes come through a window that moves with the walk. A small one is taken field by field.
 * Both throw a plain Error or RangeError on bytes that are no message.
 */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import type { ByteSource } from './byte-source.ts';

type Bytes = Uint8Array<ArrayBuffer>;

export interface Field {
  readonly number: number;
  readonly wire: WireType;
  /** Byte where its tag begins. */
  readonly tagStart: number;
  /** Bytes of its content, without tag and length. */
  readonly start: number;
  readonly end: number;
  /** Its value where it is a varint. */
  readonly varint: bigint | undefined;
}

const windowBytes = 256 * 1024;
const longestVarint = 10;

export class FieldWalk {
  private window: Bytes = new Uint8Array(0);
  private windowStart = 0;

  constructor(private readonly source: ByteSource) {}

  /** Fields of the message at bytes [start, end); throws an Error where it is no message. */
  async *fields(start: number, end: number): AsyncGenerator<Field, void, undefined> {
    for (let at = start; at < end;) {
      const field = await this.field(at, end);
      yield field;
      at = field.end;
    }
  }

  /** Bytes [start, end) of the file. */
  async bytes(start: number, end: number): Promise<Bytes> {
    if (start < this.windowStart || end > this.windowStart + this.window.length) {
      if (end - start > windowBytes) return this.source.read(start, end);
      this.window = await this.source.read(start, Math.min(start + windowBytes, this.source.size));
      this.windowStart = start;
    }
    return this.window.subarray(start - this.windowStart, end - this.windowStart);
  }

  private async field(tagStart: number, end: number): Promise<Field> {
    // A tag and a length, or a tag and a number: two varints.
    const reader = new BinaryReader(await this.bytes(tagStart, Math.min(tagStart + 2 * longestVarint, end)));
    const [number, wire] = reader.tag();
    let start = tagStart + reader.pos;
    let stop: number;
    let varint: bigint | undefined;
    if (wire === WireType.Varint) {
      varint = BigInt(reader.uint64());
      stop = tagStart + reader.pos;
    } else if (wire === WireType.LengthDelimited) {
      const length = reader.uint32();
      start = tagStart + reader.pos;
      stop = start + length;
    } else if (wire === WireType.Bit32 || wire === WireType.Bit64) {
      stop = start + (wire === WireType.Bit32 ? 4 : 8);
    } else {
      throw new Error(`wire type ${wire} at byte ${tagStart}`);
    }
    if (stop > end) throw new Error(`the field at byte ${tagStart} would end at ${stop} of ${end}`);
    return { number, wire, tagStart, start, end: stop, varint };
  }
}

/** One field of a small message; it is taken by asking for its value once. */
export class FieldValue {
  constructor(
    private readonly reader: BinaryReader,
    readonly number: number,
    readonly wire: WireType,
  ) {}

  /** Content of a message or of bytes; a view. */
  bytes(): Bytes {
    this.expect(WireType.LengthDelimited);
    return this.reader.bytes() as Bytes;
  }

  text(): string {
    return decodeText(this.bytes());
  }

  float(): number {
    this.expect(WireType.Bit32);
    return this.reader.float();
  }

  /** Beyond 2^53 as bigint. */
  int(): number | bigint {
    this.expect(WireType.Varint);
    return int64(this.reader);
  }

  /** Repeated numbers, one by one or packed. */
  floats(take: (value: number) => void): void {
    if (this.wire === WireType.Bit32) return take(this.float());
    const packed = new BinaryReader(this.bytes());
    while (packed.pos < packed.len) take(packed.float());
  }

  ints(take: (value: number | bigint) => void): void {
    if (this.wire === WireType.Varint) return take(this.int());
    const packed = new BinaryReader(this.bytes());
    while (packed.pos < packed.len) take(int64(packed));
  }

  /** The bytes that hold a number or packed numbers, as they are. */
  encoded(): Uint8Array {
    return this.wire === WireType.LengthDelimited ? this.bytes() : this.reader.skip(this.wire, this.number);
  }

  private expect(wire: WireType): void {
    if (this.wire !== wire) throw new Error(`field ${this.number} has wire type ${this.wire} and not ${wire}`);
  }
}

/** Hands each field of a message to the one that wants its number; the rest are passed over. */
export function forFields(bytes: Uint8Array, wanted: Readonly<Record<number, (value: FieldValue) => void>>): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    const take = wanted[number];
    if (take === undefined) reader.skip(wire, number);
    else take(new FieldValue(reader, number, wire));
  }
}

function int64(reader: BinaryReader): number | bigint {
  const value = BigInt(reader.int64());
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function decodeText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new Error('a name is not UTF-8');
  }
}

export function textOrBytes(bytes: Bytes): string | Bytes {
  try {
    return utf8.decode(bytes);
  } catch {
    return bytes.slice();
  }
}
