import { describe, expect, it } from 'vitest';
import { withResult } from './results.mjs';

describe('docs/results.md', () => {
  const both = '# One?\n\nold\n\n| a |\n\n# Two?\n\nother\n';

  it('keeps the parts of other scripts', () => {
    expect(withResult(both, 'One?', 'new\n')).toBe('# One?\n\nnew\n\n# Two?\n\nother\n');
    expect(withResult(both, 'Two?', 'new')).toBe('# One?\n\nold\n\n| a |\n\n# Two?\n\nnew\n');
  });

  it('takes a new part at its end', () => {
    expect(withResult(both, 'Three?', 'new')).toBe(`${both}\n# Three?\n\nnew\n`);
    expect(withResult('', 'One?', 'new')).toBe('# One?\n\nnew\n');
  });
});
