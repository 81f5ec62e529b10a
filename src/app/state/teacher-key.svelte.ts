/**
 * The key of a teacher's server, as long as this page is open. It belongs to the server it was typed for: where the address
 * then names another, it is as if none had been typed.
 */
import { job } from '../job.ts';
import { noteFault } from './faults.svelte.ts';

let typed = $state({ server: '', key: '' });

const serverOf = (url: string): string => (URL.canParse(url) ? new URL(url).origin : '');

export const teacherKey = {
  of: (url: string): string => (serverOf(url) === typed.server ? typed.key : ''),
  set(url: string, key: string): void {
    typed = { server: serverOf(url), key };
    job().teacherKey(url, key).catch(noteFault);
  },
};
