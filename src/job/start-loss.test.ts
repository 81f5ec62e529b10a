/** The look before a run says what the run then begins with. */
import { expect, it } from 'vitest';
import { parseRecipe } from '../recipe/parse.ts';
import type { RecipeInput } from '../recipe/schema.ts';
import { openKnownDevice } from './known-device.ts';
import { Sources } from './sources.ts';
import { startLossOf } from './start-loss.ts';
import { fewRows, memoryHost, testRun } from './testing.ts';

it('is the loss of the first evaluation, beside that of the uncut model', { timeout: 600_000 }, async () => {
  const local = fewRows(12);
  const recipe: RecipeInput = {
    seed: 3,
    student: { model: './arithmetic', compress: { num_hidden_layers: 2, init: 'importance' } },
    teacher: { kind: 'none' },
    data: { source: './few.jsonl', eval_fraction: 0.33, max_length: 48, assistant_only_loss: true },
    distill: { objective: 'none' },
    lora: { r: 2, target_modules: ['q_proj'] },
    training: { per_device_train_batch_size: 2, per_device_eval_batch_size: 4, max_steps: 1 },
    export: { onnx: [], adapter: false },
  };
  const host = await memoryHost();
  const device = await openKnownDevice(host);
  const context = {
    recipe: parseRecipe(recipe, 'recipe.json'),
    sources: new Sources(host, local, 'recipe.json'),
    recipeFile: 'recipe.json',
  };
  const before = device.liveBytes;
  const heard: string[] = [];
  const { rows, student, whole } = await startLossOf(context, device, (done, of) => void heard.push(`${done}/${of}`));
  // rotary tables stay with the device; weights do not
  expect(device.liveBytes - before).toBeLessThan(100_000);
  device.destroy();
  expect(heard).toEqual(['0/2', '1/2']);
  expect(rows).toBe(4);

  const events = await (await testRun(host, recipe, local)).sit();
  const first = events.find((event) => event.kind === 'metrics' && event.line.step === 0);
  if (first?.kind !== 'metrics') throw new Error('the run evaluated nothing');
  // an adapter that starts at zero changes no bit, but it is another graph
  expect(Math.abs(student / first.line.eval_loss! - 1)).toBeLessThan(1e-6);
  expect(whole).toBeLessThan(student);
  host.devices.forEach((one) => one.destroy());
});
