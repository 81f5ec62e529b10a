/**
 * The page's one door to the job: its worker, started when it is first needed. Everything else in src/app sees a plain
 * `JobApi`; that callbacks must be proxied to cross the thread is known only here.
 */
import { proxy, wrap, type Remote } from 'comlink';
import type { JobApi } from '../job/protocol.ts';
import { noteFault } from './state/faults.svelte.ts';

let opened: JobApi | undefined;

export function job(): JobApi {
  opened ??= open();
  return opened;
}

function open(): JobApi {
  const worker = new Worker(new URL('../../workers/engine.worker.ts', import.meta.url), { type: 'module' });
  worker.addEventListener('error', (event) => noteFault(event.message || 'the worker did not start'));
  const remote: Remote<JobApi> = wrap<JobApi>(worker);
  return {
    create: (recipe, files, like) => remote.create(recipe, files, like),
    runs: () => remote.runs(),
    events: (id) => remote.events(id),
    remove: (id) => remote.remove(id),
    files: (id) => remote.files(id),
    backup: (id) => remote.backup(id),
    restore: (file) => remote.restore(file),
    preview: (recipe, files, like) => remote.preview(recipe, files, like),
    encoderSizes: (model, revision, files, like) => remote.encoderSizes(model, revision, files, like),
    estimate: (recipe, files, like) => remote.estimate(recipe, files, like),
    startLoss: (recipe, files, like, onProgress) => remote.startLoss(recipe, files, like, proxy(onProgress)),
    run: (id, onEvent) => remote.run(id, proxy(onEvent)),
    pause: () => remote.pause(),
    stop: () => remote.stop(),
    chat: (id, who, messages, settings, onText) => remote.chat(id, who, messages, settings, proxy(onText)),
    stopChat: () => remote.stopChat(),
    nextToken: (id, text, top) => remote.nextToken(id, text, top),
    openAnswer: (id, messages, answer) => remote.openAnswer(id, messages, answer),
    hub: (settings) => remote.hub(settings),
    teacherKey: (url, key) => remote.teacherKey(url, key),
    tryTeacher: (url, model) => remote.tryTeacher(url, model),
    headless: (token) => remote.headless(token),
    bench: (suites, onResult) => remote.bench(suites, proxy(onResult)),
  };
}
