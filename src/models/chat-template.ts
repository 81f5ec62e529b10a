/**
 * messages ─▶ text, by the Jinja template that comes with a model, and where in that text the assistant speaks.
 *
 * Templates come from strangers. Jinja in JavaScript cannot reach out of its sandbox, but it can loop: every node of
 * the template passes through Interpreter.evaluate, so a subclass counts steps, watches the clock and the size of every
 * value, and `range` is bounded. What goes wrong becomes an InputError in words.
 *
 * Spans of the assistant, in characters of the text:
 *  - a template with {% generation %} blocks marks them itself. @huggingface/jinja drops these tags, so they are put
 *    back as variables that print a sentinel, and the sentinels are taken out of the text again. Whitespace around the
 *    tags follows Jinja's trim_blocks and lstrip_blocks, as transformers sets them (utils/chat_template_utils.py);
 *  - any other template is asked twice: the turn starts where the text of the messages before it, with the generation
 *    prompt, ends, and ends where the text of the messages up to it ends. That is what TRL's training templates mark
 *    for ChatML (the turn's end token and the newline after it included). Where a template writes earlier turns in
 *    another way (Qwen3 leaves out old thoughts), sentinels around the content stand in.
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { InputError } from '../formats/input-error.ts';

export interface Message {
  readonly role: string;
  readonly content: string;
  /** tool_calls, reasoning_content, name and what else a template may read. */
  readonly [field: string]: unknown;
}

export interface RenderOptions {
  readonly add_generation_prompt?: boolean;
  readonly tools?: readonly unknown[];
}

/** [start, end) in UTF-16 code units of the rendered text. */
export type Span = readonly [start: number, end: number];

export interface Rendered {
  readonly text: string;
  readonly assistantSpans: readonly Span[];
}

/** bos_token, eos_token, … as the tokenizer's configuration names them. */
export type SpecialTokens = Readonly<Record<string, string | undefined>>;

/** Far above any honest template (Llama 3.1's takes about 100 steps a message), far below a frozen tab. */
const LIMITS = {
  source: 128 * 1024,
  blanks: 2000,
  steps: 2_000_000,
  milliseconds: 3000,
  characters: 16_000_000,
  items: 200_000,
};

const ALLOWED = 'a chat template that ends, within a few seconds and megabytes';

class LimitedInterpreter extends Interpreter {
  private steps = 0;
  private lookAt = 0;
  private readonly started = Date.now();

  override evaluate(...args: Parameters<Interpreter['evaluate']>): ReturnType<Interpreter['evaluate']> {
    this.spend(1);
    const result = super.evaluate(...args);
    // A value can only double or so in one step, so that checking each keeps memory bounded. Its size is work too: a
    // loop over a list takes no other step where its body is empty.
    const value: unknown = result.value;
    if (typeof value === 'string') {
      if (value.length > LIMITS.characters) throw new LimitError('writes too much text');
      this.spend(value.length >> 8);
    } else if (Array.isArray(value)) {
      if (value.length > LIMITS.items) throw new LimitError('makes too long a list');
      this.spend(value.length);
    } else if (value instanceof Map) this.spend(value.size);
    return result;
  }

  private spend(steps: number): void {
    this.steps += steps;
    if (this.steps > LIMITS.steps) throw new LimitError(`takes more than ${LIMITS.steps} steps`);
    if (this.steps < this.lookAt) return;
    this.lookAt = this.steps + 256;
    if (Date.now() - this.started > LIMITS.milliseconds) {
      throw new LimitError(`takes longer than ${LIMITS.milliseconds / 1000} s`);
    }
  }
}

class LimitError extends Error {}

/** Thrown by the template itself, by raise_exception. */
class TemplateRefusal extends Error {}

/** Noncharacters: no text of a person holds them, and no template treats them as blanks. */
const SENTINELS = ['\uFDD0\uFDD1', '\uFDD2\uFDD3', '\uFDD4\uFDD5', '\uFDD6\uFDD7'];
const OPEN = 'stillroom_generation_opens';
const CLOSE = 'stillroom_generation_closes';

export class ChatTemplate {
  private readonly program: Template['parsed'];
  private readonly marksGeneration: boolean;

  constructor(
    source: string,
    private readonly specialTokens: SpecialTokens,
    /** Name of the file in errors. */
    private readonly file = 'chat_template.jinja',
  ) {
    if (source.length > LIMITS.source) {
      throw new InputError(file, '', `is ${source.length} characters long`, `at most ${LIMITS.source}`);
    }
    // The library's regular expressions take quadratic time on runs of blanks.
    if (new RegExp(`\\s{${LIMITS.blanks}}`).test(source)) {
      throw new InputError(file, '', `holds ${LIMITS.blanks} blanks in a row`, 'a chat template');
    }
    // Jinja reads every kind of line end as \n.
    const { marked, blocks } = markGeneration(source.replace(/\r\n?/g, '\n'), file);
    this.marksGeneration = blocks > 0;
    try {
      this.program = new Template(marked).parsed;
    } catch (error) {
      throw new InputError(
        file,
        '',
        `is not a Jinja template (${saidBy(error)})`,
        'a Jinja template that the model brings',
      );
    }
  }

  /** The text alone. */
  render(messages: readonly Message[], options: RenderOptions = {}): string {
    return this.run(messages, options, '', '');
  }

  /** The text, and where the assistant speaks in it. */
  renderWithSpans(messages: readonly Message[], options: RenderOptions = {}): Rendered {
    if (this.marksGeneration) {
      const [open, close] = this.sentinelsFor(messages);
      return this.takeOut(this.run(messages, options, open, close), open, close);
    }
    const text = this.render(messages, options);
    const assistantSpans = messages.flatMap((message, i) =>
      message.role === 'assistant' ? [this.turn(messages, i, text, options)] : [],
    );
    return { text, assistantSpans };
  }

  /** The i-th message, which is the assistant's, in the text of all. */
  private turn(messages: readonly Message[], i: number, text: string, options: RenderOptions): Span {
    const { tools } = options;
    const before = messages.slice(0, i);
    const prompt = i > 0 ? this.attempt(before, { add_generation_prompt: true, tools }) : undefined;
    const upTo = i === messages.length - 1 ? text : this.attempt(messages.slice(0, i + 1), { tools });
    let start = prompt !== undefined && text.startsWith(prompt) ? prompt.length : undefined;
    let end = upTo !== undefined && text.startsWith(upTo) ? upTo.length : undefined;
    if (start === undefined || end === undefined) {
      const content = this.contentOf(messages, i, text, options);
      start ??= content.start;
      end ??= content.end;
    }
    if (start === undefined || start > end) throw this.unfound();
    return [start, end];
  }

  /** Some templates refuse a part of a conversation; then the other ways of finding the turn remain. */
  private attempt(messages: readonly Message[], options: RenderOptions): string | undefined {
    try {
      return this.render(messages, options);
    } catch (error) {
      if (error instanceof InputError) return undefined;
      throw error;
    }
  }

  /**
   * Where the content of message i stands, by sentinels around it; its end token and the blanks after it are included.
   * The start is undefined where the template threw the content's beginning away.
   */
  private contentOf(
    messages: readonly Message[],
    i: number,
    text: string,
    options: RenderOptions,
  ): { start: number | undefined; end: number } {
    const [open, close] = this.sentinelsFor(messages);
    // Templates trim contents and throw old thoughts away: the sentinels stand inside of what is surely kept.
    const [, thought, kept, blanks] = /^((?:[^]*<\/think>)?\s*)([^]*?)(\s*)$/.exec(messages[i]!.content)!;
    const content = `${thought}${open}${kept}${close}${blanks}`;
    const wrapped = messages.map((message, j) => (j === i ? { ...message, content } : message));
    const marked = this.attempt(wrapped, options);
    if (marked === undefined || marked.replaceAll(open, '').replaceAll(close, '') !== text) throw this.unfound();
    const opens = marked.indexOf(open);
    const closes = marked.indexOf(close);
    if (closes < 0) throw this.unfound();
    const start = opens >= 0 && opens < closes ? opens : undefined;
    let end = start === undefined ? closes : closes - open.length;
    // What ends a turn: the end token, or another in angle brackets (Phi's <|end|>), and the blanks after it.
    // What ends a turn: the end token, or another in angle brackets (Phi's <|end|>), and the blanks after it.
    const eos = this.specialTokens['eos_token'];
    if (eos && text.startsWith(eos, end)) end += eos.length;
    else end += /^<[^<>\s]{1,40}>/.exec(text.slice(end, end + 42))?.[0].length ?? 0;
    end += /^\s*/.exec(text.slice(end))![0].length;
    return { start, end };
  }

  private unfound(): InputError {
    return new InputError(
      this.file,
      '',
      'does not let the assistant’s part be found',
      '{% generation %} … {% endgeneration %} around it, or a template that writes turns one after the other',
    );
  }

  private sentinelsFor(messages: readonly Message[]): [string, string] {
    const all = JSON.stringify(messages);
    const pair = SENTINELS.find((candidate) => !all.includes(candidate[0]!) && !all.includes(candidate[1]!));
    if (pair === undefined)
      throw new InputError(this.file, '', 'cannot be marked: the messages hold noncharacters', 'plain text');
    return [pair[0]!, pair[1]!];
  }

  private takeOut(marked: string, open: string, close: string): Rendered {
    let text = '';
    let start: number | undefined;
    const assistantSpans: Span[] = [];
    for (const part of marked.split(new RegExp(`(${open}|${close})`))) {
      if (part === open) start = text.length;
      else if (part === close) {
        if (start === undefined) throw this.unfound();
        assistantSpans.push([start, text.length]);
        start = undefined;
      } else text += part;
    }
    return { text, assistantSpans };
  }

  private run(messages: readonly Message[], options: RenderOptions, open: string, close: string): string {
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      raise_exception: (words: unknown) => {
        throw new TemplateRefusal(String(words));
      },
      range: boundedRange,
      strftime_now: strftimeNow,
      ...this.specialTokens,
      messages: messages.map(withoutNulls),
      add_generation_prompt: options.add_generation_prompt ?? false,
      ...(options.tools ? { tools: options.tools } : {}),
      [OPEN]: open,
      [CLOSE]: close,
    };
    for (const [name, value] of Object.entries(globals)) {
      if (value !== undefined) environment.set(name, value);
    }
    try {
      return String(new LimitedInterpreter(environment).run(this.program).value);
    } catch (error) {
      if (error instanceof TemplateRefusal) {
        throw new InputError(
          this.file,
          '',
          `refuses these messages (${saidBy(error)})`,
          'messages in the order that the template expects',
        );
      }
      if (error instanceof LimitError) throw new InputError(this.file, '', saidBy(error), ALLOWED);
      if (error instanceof RangeError)
        throw new InputError(this.file, '', `goes too deep or too far (${saidBy(error)})`, ALLOWED);
      throw new InputError(this.file, '', `fails (${saidBy(error)})`, 'a chat template that fits these messages');
    }
  }
}

/** One call for one conversation; keep a ChatTemplate where there are many. */
export function renderChat(
  template: string,
  messages: readonly Message[],
  options: RenderOptions & { special_tokens?: SpecialTokens } = {},
): Rendered {
  return new ChatTemplate(template, options.special_tokens ?? {}).renderWithSpans(messages, options);
}

/** Puts variables in place of {% generation %} and {% endgeneration %}, taking the whitespace that Jinja would take. */
function markGeneration(source: string, file: string): { marked: string; blocks: number } {
  let marked = '';
  let blocks = 0;
  let open = false;
  let at = 0;
  for (const tag of source.matchAll(/\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g)) {
    const [whole, left, end, right] = tag;
    if ((end !== undefined) !== open) {
      throw new InputError(
        file,
        '',
        `has an {% ${end ?? ''}generation %} without its other half`,
        'generation blocks that open and close in turn',
      );
    }
    open = !open;
    if (open) blocks++;
    let text = source.slice(at, tag.index);
    if (left === '-') text = text.trimEnd();
    // lstrip_blocks: blanks between the start of the line and the tag.
    else if (left === '' && /(^|\n)[ \t]*$/.test(text) && (at === 0 || text.includes('\n')))
      text = text.replace(/[ \t]*$/, '');
    marked += `${text}{{ ${end === undefined ? OPEN : CLOSE} }}`;
    at = tag.index + whole.length;
    if (right === '-') at += /^\s*/.exec(source.slice(at))![0].length;
    else if (right === '' && source[at] === '\n') at++;
  }
  if (open) throw new InputError(file, '', 'has a {% generation %} that never ends', '{% endgeneration %}');
  return { marked: marked + source.slice(at), blocks };
}

/**
 * The same template for readers that do not know these tags (llama.cpp, and Jinja without transformers' extension):
 * comments in their place, which take the same whitespace with them.
 */
export function withoutGeneration(source: string): string {
  return source.replace(/\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}/g, '{#$1 $2#}');
}

/** As transformers: a key whose value is null is left out. */
function withoutNulls(message: Message): Record<string, unknown> {
  return Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null && value !== undefined));
}

function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined || stop === null ? [0, start] : [start, stop];
  if (step === 0) throw new Error('range() step must not be zero');
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!(count <= LIMITS.items)) throw new LimitError(`asks for a range of ${count}`);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

/** The few directives that chat templates use, in the local time, as Python's strftime. */
function strftimeNow(format: string): string {
  const now = new Date();
  const two = (value: number) => String(value).padStart(2, '0');
  const name = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat('en-US', options).format(now);
  const directives: Record<string, () => string> = {
    Y: () => String(now.getFullYear()),
    m: () => two(now.getMonth() + 1),
    d: () => two(now.getDate()),
    H: () => two(now.getHours()),
    M: () => two(now.getMinutes()),
    S: () => two(now.getSeconds()),
    b: () => name({ month: 'short' }),
    B: () => name({ month: 'long' }),
    a: () => name({ weekday: 'short' }),
    A: () => name({ weekday: 'long' }),
  };
  return String(format).replace(/%([a-zA-Z])/g, (whole, letter: string) => directives[letter]?.() ?? whole);
}

function saidBy(error: unknown): string {
  const said = error instanceof Error ? error.message : String(error);
  return said.replace(/\s+/g, ' ').slice(0, 200);
}
