/** Sizes that only the caller of an exported file knows, spelt as optimum spells them: transformers.js looks for these. */
export const BATCH = 'batch_size';
export const TOKENS = 'sequence_length';
export const PAST = 'past_sequence_length';
export const TOTAL = 'total_sequence_length';
