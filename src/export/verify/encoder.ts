/**
 * A written encoder against the engine: the same tokens give the same hidden states and logits, alone (`whole`) and in a
 * batch with a longer sequence, padded on the right as tokenizers of encoders do (`padded`).
 */
import { DecoderSession, type OnnxFile, type OrtModule } from './session.ts';
import { AHEAD, type HeldOutRow } from './held-out.ts';
import { largestDifference, largestOf, lossOf, top1, type ReferenceSequence, type Verification } from './verify.ts';

export async function verifyEncoder(
  ort: OrtModule,
  file: OnnxFile,
  sequences: readonly ReferenceSequence[],
  heldOut: readonly HeldOutRow[] = [],
): Promise<Verification> {
  let eval_loss: number | undefined;
  const session = await DecoderSession.open(ort, file);
  const found = { whole: 0, padded: 0 };
  const agreed = { same: 0, of: 0 };
  const names = ['last_hidden_state', 'logits'] as const;
  const largest = names.map((name) => Math.max(...sequences.map((one) => largestOf(one[name] ?? []))) || 1);
  const width = Math.max(...sequences.map(({ input_ids }) => input_ids.length));
  try {
    const pad = (values: readonly number[], to: number): number[] => [
      ...values,
      ...new Array<number>(to - values.length).fill(0),
    ];
    const see = async (way: keyof typeof found, rows: readonly ReferenceSequence[], length: number): Promise<void> => {
      const answer = await session.run({
        input_ids: rows.map(({ input_ids }) => pad(input_ids, length)),
        attention_mask: rows.map(({ input_ids }) => pad(new Array<number>(input_ids.length).fill(1), length)),
      });
      const outputs = {
        last_hidden_state: answer.others.last_hidden_state!.data as Float32Array,
        logits: answer.logits,
      };
      rows.forEach((one, row) => {
        names.forEach((name, i) => {
          const wanted = one[name] ?? new Float32Array(0);
          const each = wanted.length / one.input_ids.length;
          const got = outputs[name].subarray(row * length * each, (row * length + one.input_ids.length) * each);
          found[way] = Math.max(found[way], largestDifference(got, wanted) / largest[i]!);
          if (name !== 'logits' || way !== 'whole') return;
          agreed.same += top1(got, wanted, one.input_ids.length);
          agreed.of += each > 0 ? one.input_ids.length : 0;
        });
      });
    };
    for (const one of sequences) await see('whole', [one], one.input_ids.length);
    await see('padded', sequences, width);
    if (heldOut.length > 0) eval_loss = await lossOf(session, heldOut, AHEAD.encoder);
  } finally {
    await session.close();
  }
  const worst = found.whole >= found.padded ? 'whole' : 'padded';
  return {
    max_logit_difference: found[worst],
    worst,
    top1_agreement: agreed.of > 0 ? agreed.same / agreed.of : undefined,
    eval_loss,
  };
}
