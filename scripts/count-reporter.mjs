/**
 * A vitest reporter that leaves `{ passed, failed, skipped }` in the file that STILLROOM_TEST_COUNTS names,
 * so that scripts/test.mjs can add up several runs.
 */
import { writeFileSync } from 'node:fs';

export default class CountReporter {
  /** @param {readonly import('vitest/node').TestModule[]} modules @param {readonly unknown[]} unhandledErrors */
  onTestRunEnd(modules, unhandledErrors) {
    const counts = { passed: 0, failed: 0, skipped: 0 };
    for (const module of modules) {
      // A file that does not even load has no tests, and is a failure all the same.
      if (module.state() === 'failed' && module.errors().length > 0) counts.failed++;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'passed') counts.passed++;
        else if (state === 'failed') counts.failed++;
        else counts.skipped++;
      }
    }
    counts.failed += unhandledErrors.length;
    const file = process.env.STILLROOM_TEST_COUNTS;
    if (file) writeFileSync(file, JSON.stringify(counts));
  }
}
