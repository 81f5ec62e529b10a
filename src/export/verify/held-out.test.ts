import { expect, it } from 'vitest';
import { AHEAD, heldOutLoss } from './held-out.ts';

it('is the mean of −log p over the tokens that count, each judged where the one before it stands', () => {
  const row = { input_ids: [1, 0, 2], labels: [-100, 0, 2] };
  const masked = { input_ids: [1, 2], labels: [-100, -100] };
  // p(0) = 1/2 at the first place, p(2) = 3/5 at the second; the last place has nothing to guess
  const logits = Float32Array.from([Math.log(2), 0, 0, 1000, 1000, 1000 + Math.log(3), 7, 8, 9]);
  const nothing = new Float32Array(6);
  expect(heldOutLoss([row, masked], [logits, nothing])).toBeCloseTo((Math.log(2) - Math.log(3 / 5)) / 2, 4);
});

it('of an encoder is judged where the mask is', () => {
  const row = { input_ids: [1, 3], labels: [-100, 0] };
  const logits = Float32Array.from([5, 0, 0, Math.log(2), 0, 0]);
  expect(heldOutLoss([row], [logits], AHEAD.encoder)).toBeCloseTo(Math.log(2), 4);
});
