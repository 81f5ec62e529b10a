export function realModel(name: 'smollm2' | 'minilm'): string | undefined;
export function bringRealModels(): Promise<void>;
