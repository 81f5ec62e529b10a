/** What a kept run has said, told again: of what was said twice (before and after a resumption) the last. */
import type { JobEvent } from './protocol.ts';
import type { RunFacts } from './run-facts.ts';

export function retold(facts: RunFacts, lines: readonly JobEvent[]): JobEvent[] {
  const last = new Map<string, number>();
  lines.forEach((event, i) => last.set(subject(event, i), i));
  const said = lines.filter((event, i) => last.get(subject(event, i)) === i);
  return [...said, ...Object.values(facts.progress), ...(facts.last ? [facts.last] : [])];
}

/** Two events of one subject: the later one holds. */
function subject(event: JobEvent, place: number): string {
  switch (event.kind) {
    case 'adapter':
    case 'estimate':
    case 'checkpoint':
      return event.kind;
    case 'step':
    case 'fact':
      return `${event.kind} ${event.step}`;
    case 'score':
      return `score ${event.step} ${event.who} ${event.task}`;
    case 'sample':
      return `sample ${event.step} ${event.prompt}`;
    default:
      return String(place);
  }
}
