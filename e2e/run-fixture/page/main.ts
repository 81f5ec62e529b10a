/**
 * Counts to forty by way of the bridge, as a job trains: each step is kept in IndexedDB before it is told, so that a run that
 * was killed goes on with the next number and not from the start. The recipe's name says what goes wrong.
 */
import { openDB } from 'idb';
import { readText } from '../../../src/formats/byte-source.ts';
import { openBridge } from '../../../src/job/bridge.ts';

const STEPS = 40;
const token = new URLSearchParams(location.hash.split('?')[1]).get('bridge') ?? '';
const bridge = await openBridge(token);
const { recipe, resume } = bridge.start;

if (recipe.name === 'bad rows') {
  await bridge.write('model/config.json', new TextEncoder().encode('{}'));
  await bridge.event({ kind: 'error', input: true, message: 'rows.jsonl: line 2: is cut short: a JSON object a line' });
} else {
  const db = await openDB('fixture', 1, { upgrade: (database) => void database.createObjectStore('kept') });
  const first = resume ? (((await db.get('kept', 'step')) as number | undefined) ?? 0) + 1 : 1;
  await bridge.event({ kind: 'log', message: `from step ${first}` });
  for (let step = first; step <= STEPS; step++) {
    await bridge.event({ kind: 'progress', step: 'train', done: step, of: STEPS, unit: 'steps', rate: 20 });
    const transaction = db.transaction('kept', 'readwrite', { durability: 'strict' });
    await transaction.store.put(step, 'step');
    await transaction.done;
    await bridge.append('metrics.jsonl', JSON.stringify({ step, epoch: 0 }));
    if (recipe.name === 'dies' && step === 5) await new Promise(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const rows = await bridge.file('./rows.jsonl');
  const config = await bridge.folder('./model').open('config.json');
  const none = await bridge.folder('./model').open('nothing.json');
  const names = await bridge.folder('./model').list?.();
  // Longer than one request, and not a whole number of them.
  const long = new Uint8Array((8 << 20) + 12345).map((_, index) => index % 251);
  await bridge.write('model/onnx/model.onnx', long);
  const report = { rows: await readText(rows!), config: await readText(config!), none: none === undefined, names };
  await bridge.write('report.json', new Blob([JSON.stringify(report)]));
  await bridge.event({ kind: 'done', report: undefined as never });
}
