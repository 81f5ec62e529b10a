/** report.html stands alone: no script, no request, nothing of a person's text as markup. */
import { describe, expect, it } from 'vitest';
import { parseRecipe } from '../recipe/parse.ts';
import type { MetricsLine, Report } from './protocol.ts';
import { reportHtml } from './report-html.ts';

const figure = { value: 0.69, low: 0.594, high: 0.772, rows: 100 };
const recipe = parseRecipe(
  {
    name: '<img src=x onerror=alert(1)>',
    student: { model: 'owner/student' },
    teacher: { kind: 'engine', model: 'owner/teacher' },
    data: { source: './"rows".jsonl' },
  },
  'recipe.json',
);
const report: Report = {
  recipe,
  adapter: { vendor: 'v', architecture: 'a', device: 'd', description: 'A <card>', software: true, user_agent: 'u' },
  data: {
    read: 1250,
    kept: 1249,
    cut: 2,
    dropped: [{ reason: 'nothing that counts is left', rows: 1 }],
    tokens: 40000,
    counted_share: 0.55,
    train_rows: 1000,
    eval_rows: 249,
  },
  teacher: {
    kind: 'engine',
    parameters: 449376,
    tokens_per_second: 900,
    cache_bytes: 736980,
    mass_kept: { '2': 0.86 },
  },
  train: {
    steps: 300,
    tokens: 100000,
    tokens_per_second: 700.5,
    eval_loss_before: 1.5,
    eval_loss_after: 0.25,
    planned_bytes: 3e6,
    measured_bytes: 3.1e6,
    seconds: 140,
  },
  evaluate: {
    tasks: [{ name: 'rows', metric: 'exact_match', teacher: { ...figure, value: 0.98 }, student: figure }],
    student_parameters: 338592,
  },
  export: {
    files: [
      { path: 'model/onnx/model.onnx', bytes: 956631, dtype: 'fp32', max_logit_difference: 8.2e-7, top1_agreement: 1 },
    ],
    seconds: 9,
  },
  history: [
    { time: '2026-11-24T17:25:20.381Z', what: 'started' },
    { time: '2026-11-24T17:26:20.381Z', what: 'fault', detail: 'the <driver> went away' },
  ],
  provenance: { stillroom: '0.1.0', hashes: { recipe: 'abc' }, commits: { 'owner/model@main': 'c0ffee' } },
};
const lines: MetricsLine[] = Array.from({ length: 20 }, (_, i) => ({
  step: i + 1,
  epoch: i,
  loss: 2 / (i + 1),
  kl: 1,
}));

describe('report.html', () => {
  const html = reportHtml(report, lines);

  it('has every figure in words', () => {
    for (const words of [
      '69.0%',
      '98.0%',
      '1,250 rows read',
      '737.0 kB',
      '956.6 kB',
      '8.2e-7',
      '2.3 min',
      '1.500 → 0.2500',
    ]) {
      expect(html).toContain(words);
    }
  });

  it('asks for nothing and runs nothing', () => {
    expect(html).not.toMatch(/<(?:script|link|img|iframe|object|embed)|@import|url\(|https?:/i);
    // In a tag: in text it is text.
    expect(html).not.toMatch(/<[a-z][^>]*\s(?:src|on\w+)=/i);
  });

  it('shows a person’s text as text', () => {
    expect(html).toContain('&lt;img src=x onerror=alert(1)&gt;');
    expect(html).toContain('the &lt;driver&gt; went away');
    expect(html).not.toContain('<driver>');
  });

  it('says of how many rows the template left the thought out', () => {
    expect(html).not.toContain('chat template');
    const forgetful = { ...report, data: { ...report.data, without_thought: 1200 } };
    expect(reportHtml(forgetful, lines)).toMatch(/thought before the answer in 1.?200 of the rows/);
  });

  it('draws finite curves, and none of nothing', () => {
    expect(html.match(/<svg/g)).toHaveLength(2);
    expect(html).not.toMatch(/NaN|Infinity|undefined/);
    expect(reportHtml(report, [])).toContain('No line was logged');
    expect(reportHtml({ ...report, history: [] }, [lines[0]!])).not.toMatch(/NaN|undefined/);
  });
});
