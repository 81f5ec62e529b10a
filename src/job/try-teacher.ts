/** Trying a teacher's server before a run: one attempt each, so that a person waits for no more than an answer. */
import { connect } from '../teacher/endpoint/connect.ts';
import { promptLogprobs } from '../teacher/endpoint/prompt-logprobs.ts';
import { ServerFault, type ServerAccess } from '../teacher/endpoint/server.ts';
import type { TeacherTried } from './protocol.ts';

const PATIENCE_MS = 30_000;

export async function tryTeacher(
  named: { readonly url: string; readonly model: string },
  access: ServerAccess,
): Promise<TeacherTried> {
  try {
    const server = await connect(named, access, { pausesMs: [], signal: AbortSignal.timeout(PATIENCE_MS) });
    const said = await promptLogprobs(server, named.model);
    return { answers: true, ...(said && { logprobs: said.server }) };
  } catch (error) {
    if (error instanceof ServerFault) return { answers: false, fault: error.kind, message: error.message };
    if ((error as Error).name === 'TimeoutError') {
      return { answers: false, fault: 'unreached', message: `no answer in ${PATIENCE_MS / 1000} s` };
    }
    throw error;
  }
}
