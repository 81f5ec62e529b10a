/** What can go wrong on a GPU, as one typed error whose message a person understands. */

export type EngineFault =
  | 'no-webgpu'
  | 'no-adapter'
  | 'device-lost'
  | 'out-of-memory'
  | 'validation'
  | 'not-a-number'
  | 'half-overflow'
  | 'wrong-numbers';

const WORDS: Record<EngineFault, string> = {
  'no-webgpu': 'This browser has no WebGPU. A current Chrome, Edge or Safari has it.',
  'no-adapter': 'WebGPU is there, but it finds no graphics adapter.',
  'device-lost': 'The graphics driver took the device away. The work since the last checkpoint is lost, nothing else.',
  'out-of-memory':
    'The graphics memory is full. A shorter sequence or a smaller batch needs less; where all weights are trained, so does updating them in the backward pass (optimizer_in_bwd).',
  validation: 'The graphics driver refused a command. This is a fault of Stillroom, not of your data.',
  'not-a-number': 'The loss is not a number any more. A lower learning rate usually helps.',
  'half-overflow':
    'This model has activations larger than 16-bit numbers hold (65504). Switch 16-bit activations off (training.fp16).',
  'wrong-numbers':
    'This graphics device computes wrong numbers, so nothing was started on it. A newer driver or browser usually helps.',
};

export class EngineError extends Error {
  override readonly name = 'EngineError';

  constructor(
    readonly fault: EngineFault,
    /** What the driver said; for diagnostics, not for the page. */
    readonly detail = '',
  ) {
    super(detail ? `${WORDS[fault]} (${detail})` : WORDS[fault]);
  }
}
