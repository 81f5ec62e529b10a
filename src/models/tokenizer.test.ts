import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MemorySource, type FileSource } from '../formats/byte-source.ts';
import { loadTokenizer } from './tokenizer.ts';

const REFERENCE = '../shared/reference';
const have = existsSync(`${REFERENCE}/smollm2/expected.json`);

function folder(path: string): FileSource {
  return {
    name: path,
    async open(name) {
      const file = `${path}/${name}`;
      return existsSync(file) ? new MemorySource(name, Uint8Array.from(readFileSync(file))) : undefined;
    },
  };
}

describe.skipIf(!have)('against Python’s tokenizers (skipped without ../shared/reference)', () => {
  it('gives SmolLM2’s ids, and its prompts and rows by the chat template', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/smollm2`), { vocab_size: 49152 });
    const expected = JSON.parse(readFileSync(`${REFERENCE}/smollm2/expected.json`, 'utf8'));
    for (const { text, ids } of expected.texts) expect(tokenizer.encode(text), text).toEqual(ids);
    for (const { prompt, input_ids, greedy, text } of expected.prompts) {
      const rendered = tokenizer.chat_template!.render([{ role: 'user', content: prompt }], {
        add_generation_prompt: true,
      });
      expect(tokenizer.encode(rendered, { add_special_tokens: false })).toEqual(input_ids);
      expect(tokenizer.decode(greedy)).toBe(text);
    }
  });

  it('gives the ids and labels that TRL trained on', async () => {
    const tokenizer = await loadTokenizer(folder(`${REFERENCE}/sft_llama`), { vocab_size: 1024 });
    const rows = readFileSync(`${REFERENCE}/sft_llama/rows.jsonl`, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const expected = JSON.parse(readFileSync(`${REFERENCE}/sft_llama/tokenized_train.json`, 'utf8'));
    expected.forEach((row: { input_ids: number[]; labels: number[] }, i: number) => {
      const { text, assistantSpans } = tokenizer.chat_template!.renderWithSpans(rows[i].messages);
      const ids = tokenizer.encode(text, { add_special_tokens: false });
      expect(ids.slice(0, 320)).toEqual(row.input_ids);
      const mask = tokenizer.mask(text, ids, assistantSpans);
      expect(ids.map((id, j) => (mask[j] ? id : -100)).slice(0, 320)).toEqual(row.labels);
    });
  });
});
