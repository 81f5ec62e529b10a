/**
 * Ollama's `Modelfile` beside a GGUF: `ollama create NAME -f Modelfile`. Ollama does not run a model's Jinja template, so
 * where the template writes one turn after the other its words are found by rendering a conversation and are written in
 * Ollama's own template language (Go's text/template); where it does more, Ollama chooses one of those it knows.
 */
import { isJsonObject } from '../../formats/strict-json.ts';
import { ChatTemplate, type Message, type SpecialTokens } from '../../models/chat-template.ts';
import type { SmallFile } from '../folder.ts';
import { addedAround, jsonOf } from './tokenizer.ts';

/** What a template writes around the words of each. */
interface Turns {
  readonly system: readonly [string, string];
  readonly user: readonly [string, string];
  readonly assistant: readonly [string, string];
  /** What it says as system where nobody does. */
  readonly standing?: string;
}

const SYSTEM = 'a1system1a';
const USER = 'b2user2b';
const ASSISTANT = 'c3assistant3c';
const AGAIN = 'd4again4d';

/** @param files those of the exported folder */
export function modelfile(gguf: string, files: readonly SmallFile[]): string {
  const settings = jsonOf(files, 'tokenizer_config.json') ?? {};
  const template = typeof settings.chat_template === 'string' ? settings.chat_template : undefined;
  const named = Object.entries(settings).flatMap(([name, value]) => {
    const text = isJsonObject(value) ? value.content : value;
    return /^[a-z]+_token$/.test(name) && typeof text === 'string' ? [[name, text]] : [];
  });
  const tokens = Object.fromEntries(named) as SpecialTokens;
  const { bos } = addedAround(jsonOf(files, 'tokenizer.json') ?? {}, settings);
  const turns = template === undefined ? undefined : turnsOf(template, tokens, bos);
  const lines = [`FROM ./${gguf}`];
  if (turns) {
    const turn = (role: 'system' | 'user' | 'assistant'): string =>
      `eq .Role "${role}" }}${turns[role][0]}{{ .Content }}${turns[role][1]}`;
    lines.push(
      `TEMPLATE """{{- range .Messages }}{{ if ${turn('system')}{{ else if ${turn('user')}` +
        `{{ else if ${turn('assistant')}{{ end }}{{ end }}${turns.assistant[0]}"""`,
    );
    if (turns.standing !== undefined) lines.push(`SYSTEM """${turns.standing}"""`);
    const stop = turns.assistant[1].trim();
    if (stop !== '' && !stop.includes('"')) lines.push(`PARAMETER stop "${stop}"`);
  } else if (template !== undefined) {
    lines.push('# Its chat template does more than write turns; Ollama chooses the nearest of those that it knows.');
  }
  return `${lines.join('\n')}\n`;
}

function turnsOf(source: string, tokens: SpecialTokens, addsBos: boolean): Turns | undefined {
  const bos = tokens.bos_token ?? '';
  const render = (roles: readonly (readonly [role: string, content: string])[], prompt = false): string | undefined => {
    try {
      const messages = roles.map(([role, content]): Message => ({ role, content }));
      const text = new ChatTemplate(source, tokens).render(messages, { add_generation_prompt: prompt });
      // Ollama puts it there itself where the tokenizer does
      return addsBos && bos !== '' && text.startsWith(bos) ? text.slice(bos.length) : text;
    } catch {
      return undefined;
    }
  };
  const [s, u, a, again] = [
    ['system', SYSTEM],
    ['user', USER],
    ['assistant', ASSISTANT],
    ['user', AGAIN],
  ] as const;
  const whole = render([s, u, a, again], true);
  const answered = render([s, u, a]);
  const asked = render([s, u]);
  const askedOpen = render([s, u], true);
  if (whole === undefined || answered === undefined || asked === undefined || askedOpen === undefined) return undefined;
  const [beforeSystem, systemToUser] = between(asked, SYSTEM, USER);
  const afterUser = asked.split(USER)[1];
  const opening = askedOpen.startsWith(asked) ? askedOpen.slice(asked.length) : undefined;
  const afterAssistant = answered.split(ASSISTANT)[1];
  if (beforeSystem === undefined || systemToUser === undefined || afterUser === undefined) return undefined;
  if (opening === undefined || afterAssistant === undefined) return undefined;

  // where the system's part ends is told by a turn of the user that comes without it
  const assistantToUser = whole.split(ASSISTANT)[1]?.split(AGAIN)[0];
  if (assistantToUser === undefined || !assistantToUser.startsWith(afterAssistant)) return undefined;
  const beforeUser = assistantToUser.slice(afterAssistant.length);
  if (!systemToUser.endsWith(beforeUser)) return undefined;
  const afterSystem = systemToUser.slice(0, systemToUser.length - beforeUser.length);

  const turns: Turns = {
    system: [beforeSystem, afterSystem],
    user: [beforeUser, afterUser],
    assistant: [opening, afterAssistant],
  };
  const written = (roles: readonly (readonly ['system' | 'user' | 'assistant', string])[]): string =>
    roles.map(([role, content]) => turns[role].join(content)).join('') + opening;
  if (written([s, u, a, again]) !== whole) return undefined;
  if (JSON.stringify(turns).includes('{{')) return undefined;

  const alone = render([u], true);
  if (alone === undefined) return undefined;
  if (alone === written([u])) return turns;
  const standing = alone.slice(beforeSystem.length, alone.length - written([u]).length - afterSystem.length);
  return standing !== '' && alone === written([['system', standing], u]) ? { ...turns, standing } : undefined;
}

/** The text before `a`, and between it and `b`. */
function between(text: string, a: string, b: string): [string | undefined, string | undefined] {
  const [before, rest] = text.split(a);
  return [before, rest?.includes(b) ? rest.split(b)[0] : undefined];
}
