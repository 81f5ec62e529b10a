/** What a suite of the bench is given, and where its figures go. */
import type { Device } from '../../engine/run/device.ts';
import type { FileSource } from '../../formats/byte-source.ts';
import type { BenchResult, BenchSummary } from './protocol.ts';

/** What a suite works with. */
export interface Bench {
  readonly device: Device;
  readonly gpu: GPU;
  readonly peak_gflops: number;
  readonly stream_gbps: number;
  readonly summary: BenchSummary;
  /** The model of suite `cache`, a folder. */
  readonly model: () => Promise<FileSource>;
  add(result: BenchResult): void;
  /** Says what goes on where figures are long in coming. */
  tell(words: string): void;
}
