/**
 * The ESLint rule behind docs/design.md "who may import whom": rooms import downwards, never up, never sideways.
 *
 *   app, cli ▶ workers ▶ job ▶ train evaluate export teacher data ▶ models recipe store formats ▶ engine
 *
 * The exceptions are the words that all rooms share: `formats` is free to models, store and recipe, and the *types* of
 * `recipe` to models, store and formats. What a step keeps comes through an interface, so none of them imports `store`.
 * Tests and what only they use (`x.test.ts`, `testing.ts`, `x.testing.ts`) are free: they may bring a whole house together.
 */
import { dirname, relative, resolve, sep } from 'node:path';

const STEPS = ['train', 'evaluate', 'export', 'teacher', 'data'];
const SHARED = ['models', 'recipe', 'formats', 'engine'];
const BELOW_JOB = [...STEPS, ...SHARED, 'store'];

/** room → rooms whose values it may import (its own aside). */
const VALUES = {
  app: ['workers', 'job', ...BELOW_JOB],
  cli: ['workers', 'job', ...BELOW_JOB],
  workers: ['job', ...BELOW_JOB],
  job: BELOW_JOB,
  ...Object.fromEntries(STEPS.map((step) => [step, SHARED])),
  models: ['formats', 'engine'],
  recipe: ['formats', 'engine'],
  store: ['formats', 'engine'],
  formats: ['engine'],
  engine: [],
};
/** room → rooms of which it may import the types too. */
const TYPES = { models: ['recipe'], store: ['recipe'], formats: ['recipe'] };

/** Whether a file is a test or serves tests alone. */
export const isForTests = (file) => /(\.test|(^|[./\\])testing)\.ts$/.test(file);

/** The room that a file lies in; undefined outside the house (libraries, scripts, e2e). */
export function roomOf(file, root) {
  const [top, room, ...rest] = relative(root, file).split(sep);
  if (top === 'workers') return 'workers';
  return top === 'src' && rest.length > 0 ? room : undefined;
}

/** undefined where `from` may import `to`, else the sentence that says why not. */
export function objection(from, to, typeOnly) {
  if (from === to) return undefined;
  if (!(from in VALUES)) return `src/${from}/ is no room of the house (docs/design.md)`;
  if (VALUES[from].includes(to)) return undefined;
  const types = TYPES[from]?.includes(to) ?? false;
  if (types && typeOnly) return undefined;
  const allowed = VALUES[from].length > 0 ? VALUES[from].join(', ') : 'nothing but itself';
  return `${from} may not import ${to}${types ? ' but for its types' : ''}; it may import ${allowed}`;
}

const isTypeOnly = (node) =>
  node.importKind === 'type' ||
  node.exportKind === 'type' ||
  node.type === 'TSImportType' ||
  (node.specifiers?.length > 0 && node.specifiers.every((s) => s.importKind === 'type' || s.exportKind === 'type'));

/** @type {import('eslint').Rule.RuleModule} */
export const importDirection = {
  meta: { type: 'problem', docs: { description: 'rooms import downwards only' }, schema: [] },
  create(context) {
    const from = roomOf(context.filename, context.cwd);
    if (from === undefined || isForTests(context.filename)) return {};
    const check = (node, specifier) => {
      if (typeof specifier !== 'string' || !specifier.startsWith('.')) return;
      const to = roomOf(resolve(dirname(context.filename), specifier.replace(/\?.*$/, '')), context.cwd);
      const message = to === undefined ? undefined : objection(from, to, isTypeOnly(node));
      if (message !== undefined) context.report({ node, message });
    };
    const checkSource = (node) => check(node, node.source?.value);
    return {
      ImportDeclaration: checkSource,
      ExportNamedDeclaration: checkSource,
      ExportAllDeclaration: checkSource,
      ImportExpression: checkSource,
      TSImportType: (node) => check(node, node.source?.value ?? node.argument?.literal?.value),
      // new URL('../../workers/engine.worker.ts', import.meta.url): how a worker is named
      'NewExpression[callee.name="URL"]': (node) => check(node, node.arguments[0]?.value),
    };
  },
};
