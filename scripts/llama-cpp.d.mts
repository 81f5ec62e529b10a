export function llamaCppPython(): string | undefined;
export function askLlamaCpp(
  python: string,
  asked: {
    readonly model: string;
    readonly messages: readonly { readonly role: string; readonly content: string }[];
    readonly tokens: number;
    readonly context: number;
  },
): { prompt: string; input_ids: number[]; written: number[]; logits: Float32Array };
