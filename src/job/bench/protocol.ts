/** What the bench answers with (docs/design.md, "bench --json"): figures of one run on one device, each beside that device's own bounds. */

export const SUITES = ['matmul', 'attention', 'step', 'memory', 'cache', 'startup', 'ops'] as const;
export type Suite = (typeof SUITES)[number];
/** What is measured unless suites are named: `ops` goes through every kernel there is. */
export const MAIN_SUITES: readonly Suite[] = SUITES.filter((suite) => suite !== 'ops');

export interface BenchResult {
  readonly suite: Suite;
  readonly name: string;
  /** Milliseconds of the best round. */
  readonly ms?: number;
  readonly gflops?: number;
  readonly fraction_of_peak?: number;
  readonly gbps?: number;
  readonly fraction_of_stream?: number;
  readonly bytes?: number;
  /** The longer of the operations at the peak and the least traffic at the stream's rate, over what was measured. */
  readonly fraction_of_floor?: number;
  readonly tokens_per_second?: number;
  readonly bytes_per_token?: number;
  /** ‖g − g*‖ / ‖g*‖ of d loss / d logits from the cache against the whole teacher's. */
  readonly gradient_error?: number;
  /** The same of Σ g over all positions. */
  readonly summed_gradient_error?: number;
}

export interface BenchSummary {
  /** The smallest over the shapes of the suite `matmul`. */
  matmul_fraction_of_peak?: number;
  /** Attention forward and backward over the rate of matmul 512 × 512 × 512 in this run. */
  attention_fraction_of_matmul?: number;
  step_fraction_of_matmul?: number;
  javascript_share?: number;
  kd_over_ce?: number;
  /** Rate of the step with all frozen matrices as int8, over the f32 step's; and their bytes over f32's. */
  int8_step_over_f32?: number;
  int8_weight_bytes_over_f32?: number;
  /** Rate of the step with activations in 16 bits, over the f32 step's; and the bytes of its activations over f32's. */
  fp16_step_over_f32?: number;
  fp16_activation_bytes_over_f32?: number;
  planned_over_measured_bytes?: number;
  /** Over weights, optimiser and the activations that the backward pass cannot do without. */
  planned_over_least_bytes?: number;
  /** The time that the page foretells for the f32 step, over what it took. */
  predicted_over_measured_step?: number;
  decode_fraction_of_stream?: number;
  /** Tokens a second of a full training step of a GPT-2 of 4 layers × 128, 8 × 128 tokens. */
  gpt_tokens_per_second?: number;
}

export interface BenchReport {
  readonly adapter: {
    readonly name: string;
    readonly vendor: string;
    readonly architecture: string;
    readonly software: boolean;
  };
  /** The device's own bounds (bounds.ts), which fractions are of; `unrolled` stands beside them. */
  readonly peak_gflops: number;
  readonly stream_gbps: number;
  readonly unrolled: { readonly peak_gflops: number; readonly stream_gbps: number };
  readonly results: readonly BenchResult[];
  readonly summary: Readonly<BenchSummary>;
}
