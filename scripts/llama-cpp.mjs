/**
 * A Python that has llama-cpp-python (`pip install llama-cpp-python`), for tests that have llama.cpp answer from exported files:
 * the one that STILLROOM_LLAMA_CPP names, else `python3`. It is not part of the project; without it those tests skip.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { say } from './house.mjs';

/**
 * @returns {string | undefined} the command; undefined, and a line that says so, where there is none
 * @throws where one is named that has no llama-cpp-python
 */
export function llamaCppPython() {
  const named = process.env.STILLROOM_LLAMA_CPP;
  const python = named || 'python3';
  const { status } = spawnSync(python, ['-c', 'import llama_cpp, numpy'], { stdio: 'ignore' });
  if (status === 0) return python;
  if (named) throw new Error(`STILLROOM_LLAMA_CPP: ${named} has no llama-cpp-python`);
  say(`skipped: python3 has no llama-cpp-python (STILLROOM_LLAMA_CPP=/path/to/python names one that has)`);
  return undefined;
}

/**
 * @param {string} python
 * @param {{ model: string, messages: readonly { role: string, content: string }[], tokens: number, context: number }} asked
 * @returns {{ prompt: string, input_ids: number[], written: number[], logits: Float32Array }}
 */
export function askLlamaCpp(python, asked) {
  const script = fileURLToPath(new URL('llama-cpp.py', import.meta.url));
  const { status, stdout, stderr } = spawnSync(python, [script], {
    input: JSON.stringify(asked),
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
  });
  if (status !== 0) throw new Error(`llama.cpp: ${stderr.trim().split('\n').at(-1)}`);
  const { logits, ...answer } = JSON.parse(stdout);
  return { ...answer, logits: new Float32Array(Uint8Array.from(Buffer.from(logits, 'base64')).buffer) };
}
