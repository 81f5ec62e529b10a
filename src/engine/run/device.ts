/**
 * A GPU device and everything that is allocated on it: tensors by type, counted bytes, pipelines by source, faults as one
 * typed error. Nothing else in the project calls `createBuffer`.
 */
import { EngineError } from '../errors.ts';
import { bytesOf, wordsOf, type KernelLimits, type TensorType } from '../graph/types.ts';
import { matrixOf, rowWindows, type SizeLimits } from '../graph/windows.ts';

/** A tensor on the device: one range of a buffer, or several where it is larger than the device binds. */
export interface DeviceTensor {
  readonly type: TensorType;
  /** In order, without gaps. */
  readonly pieces: readonly Piece[];
}

/** A run of a tensor's 32-bit words that lies in one buffer. */
export interface Piece {
  readonly buffer: GPUBuffer;
  /** Bytes; a multiple of 256. */
  readonly offset: number;
  /** Which of the tensor's words is the first one here, and how many follow. */
  readonly start: number;
  readonly words: number;
}

/** @param start word of `whole` that the new tensor begins at */
export function tensorWithin(whole: DeviceTensor, type: TensorType, start: number): DeviceTensor {
  const end = start + bytesOf(type) / 4;
  const pieces = whole.pieces
    .filter((piece) => piece.start < end && piece.start + piece.words > start)
    .map((piece): Piece => {
      const first = Math.max(piece.start, start);
      return {
        buffer: piece.buffer,
        offset: piece.offset + 4 * (first - piece.start),
        start: first - start,
        words: Math.min(piece.start + piece.words, end) - first,
      };
    });
  return { type, pieces };
}

export interface AdapterDescription {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  /** A driver that computes on the CPU: everything works, slowly. */
  readonly software: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

const WANTED_LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
] as const;
const WANTED_FEATURES = ['shader-f16', 'subgroups', 'timestamp-query'] as const;

export class Device {
  /** Bytes of all live buffers, staging included, and the most there ever was. */
  liveBytes = 0;
  peakBytes = 0;
  /** What the device was seen to do, float operations a second; how submits are cut. A cautious guess until it is known. */
  flopsPerSecond = 2e10;
  /** Of those who wait for the GPU: a lost device answers nobody. */
  private readonly waiting = new Set<(lost: EngineError) => void>();
  private readonly pipelines = new Map<string, Promise<GPUComputePipeline>>();
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  private offsets: GPUBindGroupLayout | undefined;
  private readonly constants = new WeakMap<Float32Array | Int32Array, DeviceTensor>();
  private loss: EngineError | undefined;

  private constructor(
    readonly gpu: GPUDevice,
    readonly adapter: AdapterDescription,
    private known: KernelLimits & SizeLimits,
  ) {
    void gpu.lost.then((info) => {
      const loss = new EngineError('device-lost', info.message);
      this.loss = loss;
      for (const reject of this.waiting) reject(loss);
    });
  }

  /** What kernels may count on, with what was found out about the device. */
  get limits(): KernelLimits & SizeLimits {
    return this.known;
  }

  /** Plans made from now on go by what was found out. */
  learn(what: Pick<KernelLimits, 'tuning' | 'refused'> & { readonly subgroups?: boolean }): void {
    const { subgroups = true, ...found } = what;
    this.known = { ...this.known, ...found, ...(!subgroups && { subgroups, subgroupSize: undefined }) };
  }

  /**
   * @param gpu `navigator.gpu`, or Dawn's in Node
   * @param smaller a device of smaller sizes than the adapter has. WebGPU makes none below its own promises (128 MiB a
   * binding, 256 MiB a buffer): below these the plan and this class alone hold to them
   */
  static async create(gpu: GPU | undefined, smaller: Partial<SizeLimits> = {}): Promise<Device> {
    if (!gpu) throw new EngineError('no-webgpu');
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) throw new EngineError('no-adapter');
    const requiredLimits: Record<string, number> = {};
    for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
    Object.assign(requiredLimits, smaller);
    const requiredFeatures = WANTED_FEATURES.filter((feature) => adapter.features.has(feature));
    const device = await adapter.requestDevice({ requiredLimits, requiredFeatures });
    return new Device(device, describe(adapter), { ...limitsOf(device, adapter.info), ...smaller });
  }

  /** A tensor with buffers of its own, holding `data` or zeros. */
  tensor(type: TensorType, data?: Float32Array | Int32Array): DeviceTensor {
    const { width } = matrixOf(type);
    const pieces = rowWindows(type, this.limits).map(({ start, rows }): Piece => {
      const words = wordsOf(type.dtype, rows * width);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
      return { buffer: this.buffer(4 * words, usage), offset: 0, start: wordsOf(type.dtype, start * width), words };
    });
    const tensor = { type, pieces };
    if (data) this.write(tensor, data);
    return tensor;
  }

  /** Frees the buffers of a tensor that has them for itself. */
  freeTensor({ pieces }: DeviceTensor): void {
    for (const { buffer } of pieces) this.free(buffer);
  }

  /** One upload for the same array, however many programs use it; kept as long as the array is. */
  constant(type: TensorType, data: Float32Array | Int32Array): DeviceTensor {
    const known = this.constants.get(data);
    if (known) return known;
    const tensor = this.tensor(type, data);
    this.constants.set(data, tensor);
    return tensor;
  }

  /** @param start word of the tensor that `data` begins at */
  write(tensor: DeviceTensor, data: Float32Array | Int32Array, start = 0): void {
    if (4 * (start + data.length) > bytesOf(tensor.type)) throw new RangeError('more numbers than the tensor has');
    const end = start + data.length;
    for (const piece of tensor.pieces) {
      const first = Math.max(start, piece.start);
      const last = Math.min(end, piece.start + piece.words);
      if (first >= last) continue;
      const part = data.subarray(first - start, last - start);
      const at = piece.offset + 4 * (first - piece.start);
      this.gpu.queue.writeBuffer(piece.buffer, at, part as BufferSource & typeof part);
    }
  }

  /** Piece by piece: no second buffer as large as the tensor. */
  async read(tensor: DeviceTensor): Promise<Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>> {
    const words = new Int32Array(bytesOf(tensor.type) / 4);
    for (const { buffer, offset, start, words: count } of tensor.pieces) {
      const staging = this.buffer(4 * count, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      try {
        const encoder = this.gpu.createCommandEncoder();
        encoder.copyBufferToBuffer(buffer, offset, staging, 0, 4 * count);
        this.gpu.queue.submit([encoder.finish()]);
        words.set(new Int32Array(await this.mapped(staging, 4 * count)), start);
      } finally {
        this.free(staging);
      }
    }
    return tensor.type.dtype === 'i32' ? words : new Float32Array(words.buffer);
  }

  async readF32(tensor: DeviceTensor): Promise<Float32Array<ArrayBuffer>> {
    return (await this.read(tensor)) as Float32Array<ArrayBuffer>;
  }

  /** A copy of the first `bytes` of a MAP_READ buffer, once the GPU is done with it. */
  async mapped(staging: GPUBuffer, bytes: number): Promise<ArrayBuffer> {
    try {
      await this.orLost(staging.mapAsync(GPUMapMode.READ));
    } catch (error) {
      throw this.loss ?? (error instanceof EngineError ? error : new EngineError('device-lost', String(error)));
    }
    const copy = staging.getMappedRange(0, Math.ceil(bytes / 8) * 8).slice(0, bytes);
    staging.unmap();
    return copy;
  }

  /** Rejects with one EngineError if anything that `work` asks of the GPU is refused. */
  async guarded<T>(work: () => T | Promise<T>): Promise<T> {
    this.refuseIfLost();
    this.gpu.pushErrorScope('out-of-memory');
    this.gpu.pushErrorScope('validation');
    let result: T;
    try {
      result = await work();
    } finally {
      const validation = this.gpu.popErrorScope();
      const memory = this.gpu.popErrorScope();
      const [invalid, full] = await this.orLost(Promise.all([validation, memory]));
      if (full) throw new EngineError('out-of-memory', full.message);
      if (invalid) throw new EngineError('validation', invalid.message);
    }
    return result;
  }

  /** Resolves when all that was submitted is done. */
  async idle(): Promise<void> {
    await this.orLost(this.gpu.queue.onSubmittedWorkDone());
  }

  /**
   * What the GPU answers, or the loss of it. No `Promise.race` with a promise of the loss: each would leave a reaction behind
   * on it, and a long run makes millions.
   */
  private orLost<T>(answer: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.loss) reject(this.loss);
      else this.waiting.add(reject);
      // heard in any case: what a lost device says as well is no error of its own
      void answer.then(resolve, reject).finally(() => this.waiting.delete(reject));
    });
  }

  refuseIfLost(): void {
    if (this.loss) throw this.loss;
  }

  buffer(bytes: number, usage: GPUBufferUsageFlags): GPUBuffer {
    const buffer = this.gpu.createBuffer({ size: Math.max(16, Math.ceil(bytes / 16) * 16), usage });
    this.liveBytes += buffer.size;
    this.peakBytes = Math.max(this.peakBytes, this.liveBytes);
    return buffer;
  }

  free(buffer: GPUBuffer): void {
    this.liveBytes -= buffer.size;
    buffer.destroy();
  }

  /** @param access for every binding whether the kernel may write to it */
  layout(access: readonly ('storage' | 'read-only-storage')[]): GPUBindGroupLayout {
    const key = access.join();
    let layout = this.layouts.get(key);
    if (!layout) {
      layout = this.gpu.createBindGroupLayout({
        entries: access.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
      });
      this.layouts.set(key, layout);
    }
    return layout;
  }

  /** A uniform whose place is said with each dispatch. */
  offsetLayout(): GPUBindGroupLayout {
    return (this.offsets ??= this.gpu.createBindGroupLayout({
      entries: [
        { binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: 'uniform', hasDynamicOffset: true } },
      ],
    }));
  }

  pipeline(code: string, layouts: readonly GPUBindGroupLayout[], label: string): Promise<GPUComputePipeline> {
    let pipeline = this.pipelines.get(code);
    if (!pipeline) {
      pipeline = this.gpu.createComputePipelineAsync({
        label,
        layout: this.gpu.createPipelineLayout({ bindGroupLayouts: [...layouts] }),
        compute: { module: this.gpu.createShaderModule({ code, label }), entryPoint: 'main' },
      });
      this.pipelines.set(code, pipeline);
    }
    return pipeline;
  }

  destroy(): void {
    this.gpu.destroy();
  }
}

/** What kernels may count on. Subgroups of varying size (some Intel) are left alone: kernels that assume one go wrong there. */
function limitsOf({ limits, features }: GPUDevice, info: GPUAdapterInfo): Device['limits'] {
  const { subgroupMinSize: least, subgroupMaxSize: most } = info;
  return {
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
    maxBufferSize: limits.maxBufferSize,
    architecture: info.architecture,
    subgroups: features.has('subgroups'),
    subgroupSize: features.has('subgroups') && least === most ? least : undefined,
    shaderF16: features.has('shader-f16'),
  };
}

function describe(adapter: GPUAdapter): AdapterDescription {
  const { vendor, architecture, device, description } = adapter.info;
  const limits: Record<string, number> = {};
  for (const name of WANTED_LIMITS) limits[name] = adapter.limits[name];
  return {
    vendor,
    architecture,
    device,
    description,
    software: /swiftshader|llvmpipe|software|warp|basic render/i.test(
      [vendor, architecture, device, description].join(' '),
    ),
    features: [...adapter.features].sort(),
    limits,
  };
}
