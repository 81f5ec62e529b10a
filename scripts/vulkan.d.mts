/** Types of what TypeScript uses of vulkan.mjs. */
export function rememberedEnv(): Record<string, string>;
