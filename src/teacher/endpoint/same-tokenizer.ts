/**
 * Whether a server reads texts as the same tokens as the student: it is asked to, where it has `/tokenize` (vLLM and SGLang
 * take `prompt`, llama.cpp `content`). Vocabularies padded to different sizes agree here, as what is beyond the tokenizer is
 * in no text.
 */
import type { Tokenizer } from '../../models/tokenizer.ts';
import type { PromptLogprobs } from './dialect.ts';
import type { EndpointServer } from './server.ts';

/** Letters, case, digits, blanks, punctuation, marks of code, scripts of several bytes: where tokenizers differ. */
const PROBE =
  'The 3 Quick brown-foxes\n\n  jumped_over 1234567 (x += 0.5);\tnaïve Ärger, Привет мир, 你好世界, こんにちは 🦊';

/** @param rows as token ids: some of what the server will be given */
export async function refuseOtherTokenizer(
  server: EndpointServer,
  model: string,
  logprobs: PromptLogprobs,
  tokenizer: Tokenizer,
  rows: readonly ArrayLike<number>[],
): Promise<void> {
  // The chat template's own tokens are in the rows, as they are written.
  for (const text of [PROBE, ...rows.map((ids) => tokenizer.decode(Array.from(ids)))]) {
    const ours = encoded(tokenizer, text);
    if (ours === undefined) continue;
    const theirs = await tokenized(server, model, text);
    if (theirs === undefined) return refuseOtherWords(server, logprobs, tokenizer, rows);
    const at = ours.findIndex((id, i) => id !== theirs[i]);
    if (at < 0 && ours.length === theirs.length) continue;
    const place = at < 0 ? ours.length : at;
    const mine =
      ours[place] === undefined ? 'none' : `${ours[place]} (${JSON.stringify(tokenizer.token(ours[place]))})`;
    throw refusal(
      server,
      `token ${place + 1} of ${JSON.stringify(shortened(text))} is ${theirs[place] ?? 'none'} there and ${mine} here`,
    );
  }
}

/** A server that shows no more than its API still says which words its ids are. */
async function refuseOtherWords(
  server: EndpointServer,
  logprobs: PromptLogprobs,
  tokenizer: Tokenizer,
  rows: readonly ArrayLike<number>[],
): Promise<void> {
  let compared = 0;
  for (const row of rows) {
    const ids = Array.from(row).slice(0, 64);
    if (ids.length < 2) continue;
    const said = await logprobs.after(ids, [...ids.keys()].slice(0, -1), 5);
    for (const { ids, tokens } of said) {
      ids.forEach((id, i) => {
        const theirs = tokens[i]!.trim();
        const ours = tokenizer.decode([id]).trim();
        // Part of a character, or a special token that the server does not write.
        if (theirs === '' || theirs.includes(CUT) || ours.includes(CUT)) return;
        compared++;
        if (ours !== theirs) {
          throw refusal(server, `token ${id} is ${JSON.stringify(theirs)} there and ${JSON.stringify(ours)} here`);
        }
      });
    }
  }
  if (compared === 0) {
    const allowed = 'a server that has /tokenize, or that writes its tokens beside their ids';
    throw server.fault('does not say which words its tokens are', allowed);
  }
}

const CUT = '\ufffd';

const refusal = (server: EndpointServer, what: string): Error =>
  server.fault(`has another tokenizer than the student: ${what}`, 'a teacher with the tokenizer of the student');

/** undefined where the student has no tokens for a part of the text: then its rows hold no such text either. */
function encoded(tokenizer: Tokenizer, text: string): number[] | undefined {
  const unknown = tokenizer.idOf(tokenizer.special_tokens['unk_token'] ?? '');
  try {
    const ids = tokenizer.encode(text, { add_special_tokens: false });
    return unknown !== undefined && ids.includes(unknown) ? undefined : ids;
  } catch {
    return undefined;
  }
}

/** undefined where the server has no such door. */
async function tokenized(server: EndpointServer, model: string, text: string): Promise<number[] | undefined> {
  const answer = await server.own('/tokenize', {
    model,
    prompt: text,
    add_special_tokens: false,
    content: text,
    add_special: false,
    parse_special: true,
  });
  const tokens = answer?.['tokens'];
  return Array.isArray(tokens) && tokens.every((token) => typeof token === 'number') ? tokens : undefined;
}

const shortened = (text: string): string => (text.length > 40 ? `${text.slice(0, 39)}…` : text);
