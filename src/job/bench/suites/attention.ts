/** Causal attention, forward alone and with its gradients, in turn with the matmul that it is measured by. */
import { gradients } from '../../../engine/graph/autodiff.ts';
import type { Graph } from '../../../engine/graph/graph.ts';
import type { Value } from '../../../engine/graph/types.ts';
import { attention } from '../../../engine/ops/index.ts';
import type { Bench } from '../suite.ts';
import { timeInTurn } from '../measure.ts';
import { product } from '../shapes.ts';

const HEADS = 9;
const KV_HEADS = 3;
const HEAD_DIM = 64;

export async function attentionSuite({ device, peak_gflops, summary, add }: Bench): Promise<void> {
  for (const tokens of [128, 1024]) {
    for (const backward of [false, true]) {
      const [timed, matmul] = await timeInTurn(device, [attended(tokens, backward), product(512, 512, 512, 'NT')]);
      const [gflops, rate] = [timed!, matmul!].map(({ ms, flops }) => flops / ms / 1e6) as [number, number];
      const name = `T ${tokens}, ${HEADS}/${KV_HEADS} heads of ${HEAD_DIM}, ${backward ? 'forward and backward' : 'forward'}`;
      add({ suite: 'attention', name, ms: timed!.ms, gflops, fraction_of_peak: gflops / peak_gflops });
      if (backward) summary.attention_fraction_of_matmul = gflops / rate;
    }
  }
}

const attended =
  (tokens: number, backward: boolean) =>
  (graph: Graph): readonly Value[] => {
    const q = graph.input('q', [1, tokens, HEADS * HEAD_DIM]);
    const k = graph.input('k', [1, tokens, KV_HEADS * HEAD_DIM]);
    const v = graph.input('v', [1, tokens, KV_HEADS * HEAD_DIM]);
    const segments = graph.input('segments', [1, tokens], 'i32');
    const shape = {
      heads: HEADS,
      kv_heads: KV_HEADS,
      head_dim: HEAD_DIM,
      scale: 1 / Math.sqrt(HEAD_DIM),
      causal: true,
    };
    const [out] = attention(q, k, v, segments, segments, shape);
    if (!backward) return [out!];
    const found = gradients(graph, out!, graph.input('g', [1, tokens, HEADS * HEAD_DIM]), [q, k, v]);
    return [out!, ...[q, k, v].map((value) => found.get(value)!)];
  };
