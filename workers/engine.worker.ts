/** The worker that holds the GPU: the job, over comlink. */
import { expose } from 'comlink';
import { openEngine } from '../src/job/engine-door.ts';

expose(openEngine(self.location.href));
