/** A row as every shape of data ends up: a conversation, a prompt with its completion, or plain text (TRL's three). */
import type { Message } from '../models/chat-template.ts';

export type Row =
  | { readonly messages: readonly Message[]; readonly tools?: readonly unknown[] }
  | {
      readonly prompt: readonly Message[];
      readonly completion: readonly Message[];
      readonly tools?: readonly unknown[];
    }
  | { readonly prompt: string; readonly completion: string }
  | { readonly text: string };

/** What is wrong with a row, in the words of an InputError. */
export interface Problem {
  /** From 1. */
  readonly line: number;
  readonly field?: string;
  readonly what: string;
  readonly allowed: string;
}

/** Thrown by a shape; the reader adds the line. */
export class RowError extends Error {
  constructor(
    readonly field: string,
    readonly what: string,
    readonly allowed: string,
  ) {
    super(`${field}: ${what}: ${allowed}`);
  }
}
