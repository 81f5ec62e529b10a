/** Types of soak.mjs, for TypeScript tests. */
export function soak(options: {
  recipe?: string;
  kills: number;
  seed: number;
}): Promise<{ files: string[]; differing: string[] }>;
