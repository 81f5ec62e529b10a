/** Types of browser.mjs, for TypeScript tests. */
export function findBrowser(): Promise<{ path: string; env: Record<string, string>; what: string }>;
