/**
 * A teacher behind a server, asked what a teacher in the engine is asked: for each position that counts its k largest log
 * probabilities. Opening it finds out all that may stand in the way, before the first row is asked for.
 */
import type { Tokenizer } from '../../models/tokenizer.ts';
import { connect } from './connect.ts';
import type { PromptLogprobs, TopLogprobs } from './dialect.ts';
import { promptLogprobs } from './prompt-logprobs.ts';
import { refuseOtherTokenizer } from './same-tokenizer.ts';
import type { EndpointServer, ServerAccess, ServerOptions } from './server.ts';

export interface TeacherLogprobs {
  /** i32 [positions, k], largest first; -1 fills up. */
  readonly ids: Int32Array;
  /** f32 [positions, k], natural logarithms; 0 where the id is -1. */
  readonly logprobs: Float32Array;
}

export class EndpointTeacher {
  private constructor(
    private readonly server: EndpointServer,
    private readonly said: PromptLogprobs,
    private readonly k: number,
    private readonly vocab_size: number,
  ) {}

  /** @param rows as token ids, some of what it will be asked about: its words are held against the student's */
  static async open(
    named: { readonly url: string; readonly model: string },
    access: ServerAccess,
    asked: { readonly k: number; readonly tokenizer: Tokenizer; readonly rows: readonly Int32Array[] },
    options: ServerOptions = {},
  ): Promise<EndpointTeacher> {
    const server = await connect(named, access, options);
    const said = await promptLogprobs(server, named.model);
    if (!said) {
      throw server.fault(
        'gives no log probabilities of a text that it is given',
        'vLLM, SGLang or llama.cpp’s own server (that of llama-cpp-python, Ollama and hosted models give none)',
      );
    }
    await refuseOtherTokenizer(server, named.model, said, asked.tokenizer, asked.rows);
    const teacher = new EndpointTeacher(server, said, asked.k, asked.tokenizer.vocab_size);
    const row = asked.rows.find(({ length }) => length > 1);
    if (row) await teacher.logprobs(row, [0]); // whether it gives as many as are asked for
    return teacher;
  }

  get kind(): PromptLogprobs['server'] {
    return this.said.server;
  }

  /** @param positions rising, none the last of the row */
  async logprobs(input_ids: Int32Array, positions: readonly number[]): Promise<TeacherLogprobs> {
    const { k } = this;
    const ids = new Int32Array(positions.length * k).fill(-1);
    const logprobs = new Float32Array(positions.length * k);
    const said = positions.length === 0 ? [] : await this.said.after(Array.from(input_ids), positions, k);
    said.forEach((top, i) => {
      this.refuseFewer(top);
      let at = i * k;
      top.ids.forEach((id, j) => {
        // Padding of a larger vocabulary: its probability stays in the tail.
        if (id < 0 || id >= this.vocab_size) return;
        ids[at] = id;
        logprobs[at++] = top.logprobs[j]!;
      });
    });
    return { ids, logprobs };
  }

  private refuseFewer({ ids }: TopLogprobs): void {
    if (ids.length >= this.k) return;
    throw this.server.fault(
      `gives ${ids.length} log probabilities of a token where distill.k asks for ${this.k}`,
      ids.length === 0 ? 'a server that gives them' : `distill.k ${ids.length}, or a server told to give more`,
    );
  }
}
