/**
 * An exported model in ONNX Runtime Web (WebAssembly), as transformers.js would call it. The caller brings the module:
 * Node's entry and the page's are different files of the same package.
 */
import { f16BitsToNumber } from '../../formats/half.ts';
import type { InferenceSession, Tensor, TensorConstructor } from 'onnxruntime-web';

/** What is used of `onnxruntime-web`. */
export interface OrtModule {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
}

export interface OnnxFile {
  readonly model: Uint8Array;
  /** External data by the name that the model knows it under. */
  readonly external: readonly { readonly path: string; readonly data: Uint8Array }[];
}

/** A row of a batch; 0 in the mask is padding, always on the left. */
export interface Rows {
  readonly input_ids: readonly (readonly number[])[];
  /** Over past and present tokens. */
  readonly attention_mask: readonly (readonly number[])[];
}

export interface Answer {
  /** [batch, tokens, vocabulary]; empty where the model gives none. */
  readonly logits: Float32Array;
  readonly past: Readonly<Record<string, Tensor>>;
  /** Every other output, by name. */
  readonly others: Readonly<Record<string, Tensor>>;
}

export class DecoderSession {
  private constructor(
    private readonly ort: OrtModule,
    private readonly session: InferenceSession,
  ) {}

  static async open(ort: OrtModule, file: OnnxFile): Promise<DecoderSession> {
    const session = await ort.InferenceSession.create(file.model, {
      executionProviders: ['wasm'],
      externalData: file.external.map(({ path, data }) => ({ path, data })),
      logSeverityLevel: 3,
    });
    return new DecoderSession(ort, session);
  }

  async run(rows: Rows, past: Answer['past'] = this.emptyCache(rows.input_ids.length)): Promise<Answer> {
    const feeds: Record<string, Tensor> = { ...past };
    const tokens = rows.input_ids[0]!.length;
    const wanted: Record<string, readonly (readonly number[])[]> = {
      input_ids: rows.input_ids,
      attention_mask: rows.attention_mask,
      token_type_ids: rows.input_ids.map((row) => row.map(() => 0)),
      position_ids: rows.attention_mask.map((mask) => positions(mask).slice(-tokens)),
    };
    for (const name of this.session.inputNames) {
      const values = wanted[name];
      if (values)
        feeds[name] = new this.ort.Tensor('int64', BigInt64Array.from(values.flat(), BigInt), [
          values.length,
          values[0]!.length,
        ]);
    }
    const outputs = await this.session.run(feeds);
    const { logits, ...rest } = outputs;
    const present: Record<string, Tensor> = {};
    const others: Record<string, Tensor> = {};
    for (const [name, tensor] of Object.entries(rest)) {
      if (name.startsWith('present.')) present[name.replace('present', 'past_key_values')] = tensor;
      else others[name] = tensor;
    }
    return { logits: logits ? floats(logits) : new Float32Array(0), past: present, others };
  }

  async close(): Promise<void> {
    await this.session.release();
  }

  private emptyCache(batch: number): Answer['past'] {
    const caches: Record<string, Tensor> = {};
    for (const meta of this.session.inputMetadata) {
      if (!meta.name.startsWith('past_key_values.') || !meta.isTensor) continue;
      const dims = meta.shape.map((size, axis) => (axis === 0 ? batch : typeof size === 'number' ? size : 0));
      const data = meta.type === 'float16' ? new Uint16Array(0) : new Float32Array(0);
      caches[meta.name] = new this.ort.Tensor(meta.type, data, dims);
    }
    return caches;
  }
}

/** Files of others give their logits in 16 bits too, as words or (where there is such a thing) as a Float16Array. */
function floats({ type, data }: Tensor): Float32Array {
  if (type !== 'float16') return data as Float32Array;
  const from = data as unknown as ArrayLike<number>;
  return data instanceof Uint16Array ? Float32Array.from(from, f16BitsToNumber) : Float32Array.from(from);
}

/** As transformers.js counts them: padding stands at 1 and does not count. */
function positions(mask: readonly number[]): number[] {
  let next = 0;
  return mask.map((counts) => (counts === 0 ? 1 : next++));
}
