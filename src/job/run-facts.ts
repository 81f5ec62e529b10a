/** What is kept of a run beside its bytes: the recipe, where it is, what happened to it, what its steps found out. */
import type { Recipe } from '../recipe/schema.ts';
import type { JobEvent, Report, RunSummary, Step } from './protocol.ts';

export interface RunFacts {
  readonly id: string;
  readonly name: string;
  /** ISO time. */
  readonly created: string;
  readonly recipe: Recipe;
  /** The recipe's file as the person named it; errors repeat it. */
  readonly recipe_file: string;
  readonly state: RunSummary['state'];
  /** Optimiser steps done, and of how many. */
  readonly step: number;
  readonly of: number;
  readonly history: Report['history'];
  /** The last progress of each step. */
  readonly progress: Partial<Record<Step, Extract<JobEvent, { kind: 'progress' }>>>;
  /** Parts of the report, by the step that found them. */
  readonly found: Partial<Pick<Report, 'adapter' | 'data' | 'teacher' | 'train' | 'evaluate' | 'export'>>;
  /** sha256 of everything that went in, by what it is. */
  readonly hashes: Readonly<Record<string, string>>;
  /** How the last sitting ended: paused, failed or done. */
  readonly last?: Extract<JobEvent, { kind: 'paused' | 'error' | 'done' }>;
  /** Seconds worked in each step, over all sittings. */
  readonly seconds: Partial<Record<Step, number>>;
}

export function newRun(id: string, recipe: Recipe, recipe_file: string, now: Date): RunFacts {
  return {
    id,
    name: recipe.name,
    created: now.toISOString(),
    recipe,
    recipe_file,
    state: 'new',
    step: 0,
    of: 0,
    history: [],
    progress: {},
    found: {},
    hashes: {},
    seconds: {},
  };
}

export function summaryOf(facts: RunFacts, bytes: number): RunSummary {
  const { id, name, created, state, recipe, step, of } = facts;
  return { id, name, created, state, recipe, step, of, bytes };
}
