/** A run's events as words on stderr: one line rewritten where a person watches, sparse lines in a log. */
import type { BridgeEvent } from '../job/bridge.ts';
import type { JobEvent } from '../job/protocol.ts';

type ProgressEvent = Extract<JobEvent, { kind: 'progress' }>;

const BAR = 24;
/** In a log a step is told of at most so often. */
const SPARSE_MS = 10_000;

export interface Progress {
  show(event: BridgeEvent): void;
  /** A line of words, with the bar out of its way. */
  line(words: string): void;
}

export function progressOn(stream: NodeJS.WriteStream, now: () => number = Date.now): Progress {
  let bar = '';
  let told = { step: '', at: -Infinity };

  function line(words: string): void {
    if (bar !== '') stream.write('\r\x1b[K');
    stream.write(`${words}\n`);
    if (bar !== '') stream.write(bar);
  }

  function showProgress(event: ProgressEvent): void {
    const text = describe(event);
    if (stream.isTTY) {
      bar = text.slice(0, Math.max(20, (stream.columns ?? 80) - 1));
      stream.write(`\r\x1b[K${bar}`);
    } else if (event.step !== told.step || event.done >= event.of || now() - told.at >= SPARSE_MS) {
      told = { step: event.step, at: now() };
      line(text);
    }
  }

  return {
    line,
    show(event) {
      switch (event.kind) {
        case 'progress':
          return showProgress(event);
        case 'adapter':
          return line(
            `GPU: ${event.description || event.device || event.architecture || event.vendor}${event.software ? ' (software)' : ''}`,
          );
        case 'step':
          if (event.state !== 'running' && bar !== '') {
            stream.write('\n');
            bar = '';
          }
          if (event.state === 'skipped') line(`${event.step}: skipped`);
          return;
        case 'fact':
          return line(
            `${event.step}: ${Object.entries(event.facts)
              .map(([name, value]) => `${name} ${value}`)
              .join(', ')}`,
          );
        case 'metrics': {
          const { step, loss, eval_loss } = event.line;
          if (eval_loss !== undefined) line(`step ${step}: eval_loss ${eval_loss.toFixed(4)}`);
          else if (loss !== undefined && stream.isTTY) line(`step ${step}: loss ${loss.toFixed(4)}`);
          return;
        }
        case 'score':
          return line(
            `step ${event.step}: ${event.who} ${event.task} ${percent(event.figure.value)} of ${event.figure.rows} rows`,
          );
        case 'paused':
          return line(`paused (${event.why})${event.message === undefined ? '' : `: ${event.message}`}`);
        case 'resumed':
          return line('resumed');
        case 'log':
          return line(event.message);
        default:
      }
    },
  };
}

function describe({ step, done, of, unit, rate, seconds_left }: ProgressEvent): string {
  const share = of > 0 ? Math.min(1, done / of) : 0;
  const full = Math.round(share * BAR);
  const parts = [
    `${step.padEnd(8)} [${'='.repeat(full)}${' '.repeat(BAR - full)}] ${amount(done)}/${amount(of)} ${unit}`,
  ];
  if (rate !== undefined) parts.push(`${rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3)} ${unit}/s`);
  if (seconds_left !== undefined) parts.push(`${duration(seconds_left)} left`);
  return parts.join(', ');
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

function amount(value: number): string {
  if (value < 1e5) return String(Math.round(value));
  return value < 1e8 ? `${(value / 1e6).toFixed(1)}M` : `${(value / 1e9).toFixed(2)}G`;
}

function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const minutes = Math.floor(whole / 60);
  if (minutes === 0) return `${whole} s`;
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
