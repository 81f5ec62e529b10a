/**
 * What a recipe without the field `lora` trains. Inside a `lora` that is given, an absent field has PEFT's default, so a
 * form that changes one field of an absent `lora` must write the others too.
 */
export const LORA_WHEN_ABSENT = { r: 8, lora_alpha: 16, target_modules: 'all-linear' } as const;
