export function vllmCommand(): string | undefined;
export function serveWithVllm(
  command: string,
  folder: string,
  more: readonly string[],
): Promise<{ url: string; close: () => Promise<void> }>;
