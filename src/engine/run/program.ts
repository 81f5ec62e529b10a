/**
 * A plan made ready on a device: pipelines compiled, bind groups built, memory reserved. `run` uploads the inputs in one
 * write, replays the dispatches and brings the outputs home late: the caller may replay again before the numbers arrive.
 */
import type { Source } from '../graph/graph.ts';
import { bytesOf, wordsOf, type Binding, type Operand } from '../graph/types.ts';
import { matrixOf, windowsOf } from '../graph/windows.ts';
import type { Plan, PlannedDispatch } from '../plan/plan.ts';
import type { Device, DeviceTensor } from './device.ts';
import { cutGrid, fromFirstGroup } from './long-dispatch.ts';

export type HostArray = Float32Array | Int32Array;
export type Outputs = Map<string, Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>>;

/** Scratch memory that programs of one device share: none of them leaves anything there between two replays. */
export class Arena {
  buffers: GPUBuffer[] = [];

  constructor(private readonly device: Device) {}

  /** Makes room for a plan. Programs notice that a buffer was replaced and rebind. */
  reserve(sizes: readonly number[]): void {
    sizes.forEach((bytes, i) => {
      const old = this.buffers[i];
      if (old && old.size >= bytes) return;
      if (old) this.device.free(old);
      this.buffers[i] = this.device.buffer(
        bytes,
        GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      );
    });
  }

  free(): void {
    for (const buffer of this.buffers) this.device.free(buffer);
    this.buffers = [];
  }
}

interface Range {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
}

interface Ready {
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly planned: PlannedDispatch;
  /** The whole dispatch, or the pieces of a long one. */
  readonly parts: readonly Part[];
}

/** What is submitted at once: a dispatch or a part of it. */
interface Part {
  readonly workgroups: readonly [number, number, number];
  readonly flops: number;
  /** Of a long dispatch's part: where its first workgroup stands in `firstGroups`, bytes. */
  readonly first?: number;
}

/** A kind of dispatch of a program, and what one of them took. */
export interface ProfileLine {
  readonly label: string;
  readonly op: string;
  readonly flops: number;
  readonly ms: number;
  /** How often the program runs it. */
  count: number;
}

/** Work of one submit; a driver's watchdog kills what runs for seconds, and a page must stay alive meanwhile. */
const SECONDS_PER_SUBMIT = 0.1;

/** minUniformBufferOffsetAlignment of every device. */
const OFFSET_ALIGNMENT = 256;

export class Program {
  private ready: Ready[] = [];
  private boundTo: readonly GPUBuffer[] = [];
  /** The first workgroups of all parts of long dispatches. */
  private firstGroups: { readonly buffer: GPUBuffer; readonly bindGroup: GPUBindGroup } | undefined;
  private readonly inputs: PackedInputs;
  /** Sets of buffers that outputs come home in, free for the next replay. */
  private readonly staging: (readonly GPUBuffer[])[] = [];
  private readonly homeward: Homeward;

  private constructor(
    private readonly device: Device,
    readonly plan: Plan,
    private readonly tensors: ReadonlyMap<string, DeviceTensor>,
    private readonly arena: Arena,
  ) {
    this.inputs = new PackedInputs(
      device,
      plan.sources.filter((source) => source.kind === 'input'),
    );
    this.homeward = homewardOf(plan, device.limits.maxBufferSize);
  }

  /**
   * @param tensors parameters and states by name
   * @param arena shared by the programs of one session
   * @param onProgress called as kernels get compiled
   */
  static async create(
    device: Device,
    plan: Plan,
    tensors: ReadonlyMap<string, DeviceTensor>,
    arena: Arena,
    onProgress?: (done: number, of: number) => void,
  ): Promise<Program> {
    const program = new Program(device, plan, tensors, arena);
    await device.guarded(async () => {
      arena.reserve(plan.arenas);
      await program.bind(onProgress);
    });
    return program;
  }

  /**
   * Replays the plan.
   * @param values every input by name
   * @returns the outputs, once the GPU has made them
   */
  run(values: Readonly<Record<string, HostArray>>): Promise<Outputs> {
    this.device.refuseIfLost();
    if (this.boundTo.some((buffer, i) => buffer !== this.arena.buffers[i])) {
      throw new Error('the arena has grown: call rebind() first');
    }
    this.inputs.upload(values);
    this.submitAll();
    return this.collect();
  }

  /** Needed after another program made the arena grow. */
  async rebind(): Promise<void> {
    if (this.boundTo.some((buffer, i) => buffer !== this.arena.buffers[i]))
      await this.device.guarded(() => this.bind());
  }

  /**
   * Where the time goes: dispatch by dispatch, an op's kernel over the same shapes once. Each runs once, and again as often as
   * `least_ms` takes, so that the wait for the queue does not count; the better of both is told.
   */
  async profile(values: Readonly<Record<string, HostArray>>, least_ms = 0): Promise<ProfileLine[]> {
    this.inputs.upload(values);
    await this.device.idle();
    const lines = new Map<string, ProfileLine>();
    for (const entry of this.ready) {
      const { dispatch, op, flops } = entry.planned;
      const kind = `${op} ${dispatch.label}`;
      const known = lines.get(kind);
      if (known) {
        known.count++;
        continue;
      }
      const once = await this.timed(() => this.submit([entry]));
      const times = Math.ceil(least_ms / once);
      // a slow kernel is timed twice too: beside a best of several steps, a single sample would read as a slow kernel
      const again = times > 0 ? await this.timed(() => this.submit(Array<Ready>(times).fill(entry))) : Infinity;
      const ms = Math.min(once, again / Math.max(times, 1));
      lines.set(kind, { label: dispatch.label, op, flops, ms, count: 1 });
    }
    return [...lines.values()];
  }

  /** Milliseconds a replay, without bringing anything home; `times` in a row. */
  async time(values: Readonly<Record<string, HostArray>>, times = 1): Promise<number> {
    this.inputs.upload(values);
    await this.device.idle();
    const ms = await this.timed(() => {
      for (let i = 0; i < times; i++) this.submitAll();
    });
    return ms / times;
  }

  private async timed(submit: () => void): Promise<number> {
    const start = performance.now();
    submit();
    await this.device.idle();
    return performance.now() - start;
  }

  free(): void {
    this.inputs.free();
    for (const buffer of this.staging.flat()) this.device.free(buffer);
    this.staging.length = 0;
    if (this.firstGroups) this.device.free(this.firstGroups.buffer);
    this.firstGroups = undefined;
  }

  private submitAll(): void {
    this.submit(this.ready);
  }

  /** In as many submits as it takes that none lasts longer than it may, as far as the device's rate tells. */
  private submit(entries: readonly Ready[]): void {
    const budget = this.flopsPerSubmit();
    let encoder: GPUCommandEncoder | undefined;
    let pass: GPUComputePassEncoder | undefined;
    let flops = 0;
    const flush = (): void => {
      pass?.end();
      if (encoder) this.device.gpu.queue.submit([encoder.finish()]);
      encoder = pass = undefined;
      flops = 0;
    };
    for (const { pipeline, bindGroup, parts } of entries)
      for (const part of parts) {
        if (pass && flops + part.flops > budget) flush();
        encoder ??= this.device.gpu.createCommandEncoder();
        pass ??= encoder.beginComputePass();
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, bindGroup);
        if (part.first !== undefined) pass.setBindGroup(1, this.firstGroups!.bindGroup, [part.first]);
        pass.dispatchWorkgroups(...part.workgroups);
        flops += part.flops;
      }
    flush();
  }

  private flopsPerSubmit(): number {
    return this.device.flopsPerSecond * SECONDS_PER_SUBMIT;
  }

  private async collect(): Promise<Outputs> {
    const { device, homeward } = this;
    if (homeward.windows.length === 0) return new Map();
    const staging =
      this.staging.pop() ??
      homeward.buffers.map((bytes) => device.buffer(bytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST));
    const encoder = device.gpu.createCommandEncoder();
    for (const { operand, buffer, offset } of homeward.windows) {
      const range = this.rangeOf(operand);
      encoder.copyBufferToBuffer(range.buffer, range.offset, staging[buffer]!, offset, 4 * operand.size);
    }
    device.gpu.queue.submit([encoder.finish()]);
    const bytes = await Promise.all(staging.map((buffer, i) => device.mapped(buffer, homeward.buffers[i]!)));
    this.staging.push(staging);
    const outputs: Outputs = new Map();
    for (const { name, start, operand, buffer, offset } of homeward.windows) {
      const whole = this.plan.outputs.get(name)!;
      const View = operand.type.dtype === 'i32' ? Int32Array : Float32Array;
      const part = new View(bytes[buffer]!, offset, operand.size);
      if (whole.windows) {
        if (!outputs.has(name)) outputs.set(name, new View(whole.size));
        outputs.get(name)!.set(part, start);
      } else outputs.set(name, part);
    }
    return outputs;
  }

  private async bind(onProgress?: (done: number, of: number) => void): Promise<void> {
    this.boundTo = this.arena.buffers.slice();
    const parts = this.cut();
    let done = 0;
    this.ready = await Promise.all(
      this.plan.dispatches.map(async (planned, i) => {
        const { code, access, ranges } = this.declare(planned, parts[i]!.length > 1);
        const layout = this.device.layout(access);
        const layouts = parts[i]!.length > 1 ? [layout, this.device.offsetLayout()] : [layout];
        const pipeline = await this.device.pipeline(code, layouts, planned.dispatch.label);
        onProgress?.(++done, this.plan.dispatches.length);
        const bindGroup = this.device.gpu.createBindGroup({
          layout,
          entries: ranges.map((resource, binding) => ({ binding, resource })),
        });
        return { pipeline, bindGroup, planned, parts: parts[i]! };
      }),
    );
  }

  /** The parts of every dispatch; those of long ones get their first workgroups into `firstGroups`. */
  private cut(): Part[][] {
    const budget = this.flopsPerSubmit();
    const firsts: (readonly number[])[] = [];
    const all = this.plan.dispatches.map(({ dispatch: { workgroups }, flops }): Part[] => {
      const boxes = flops > budget ? cutGrid(workgroups, Math.ceil(flops / budget)) : [];
      if (boxes.length < 2) return [{ workgroups, flops }];
      return boxes.map(({ first, count }) => ({
        workgroups: count,
        flops: flops / boxes.length,
        first: OFFSET_ALIGNMENT * (firsts.push(first) - 1),
      }));
    });
    if (this.firstGroups) this.device.free(this.firstGroups.buffer);
    this.firstGroups = undefined;
    if (firsts.length === 0) return all;
    const host = new Uint32Array((OFFSET_ALIGNMENT / 4) * firsts.length);
    firsts.forEach((first, i) => host.set(first, (OFFSET_ALIGNMENT / 4) * i));
    const buffer = this.device.buffer(host.byteLength, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
    this.device.gpu.queue.writeBuffer(buffer, 0, host);
    const bindGroup = this.device.gpu.createBindGroup({
      layout: this.device.offsetLayout(),
      entries: [{ binding: 0, resource: { buffer, size: 16 } }],
    });
    this.firstGroups = { buffer, bindGroup };
    return all;
  }

  /**
   * The declarations in front of a kernel. WebGPU forbids a buffer to be read-only and writable in one dispatch, so all
   * windows of a buffer that is written are declared read_write; and the same window bound twice is one variable.
   */
  private declare(
    { dispatch }: PlannedDispatch,
    inParts: boolean,
  ): {
    code: string;
    access: ('storage' | 'read-only-storage')[];
    ranges: Range[];
  } {
    const ranges = dispatch.bindings.map((binding) => this.rangeOf(binding.operand, binding));
    const written = new Set(
      ranges.filter((_, i) => dispatch.bindings[i]!.access === 'write').map((range) => range.buffer),
    );
    const kept: { range: Range; binding: Binding }[] = [];
    let header = '';
    let body = inParts ? fromFirstGroup(dispatch.code) : dispatch.code;
    dispatch.bindings.forEach((binding, i) => {
      const range = ranges[i]!;
      const element = binding.element ?? binding.operand.type.dtype;
      const twin = kept.find(
        (other) =>
          sameRange(other.range, range) && (other.binding.element ?? other.binding.operand.type.dtype) === element,
      );
      if (twin) {
        body = body.replace(new RegExp(`\\b${binding.name}\\b`, 'g'), twin.binding.name);
        return;
      }
      const mode = written.has(range.buffer) ? 'read_write' : 'read';
      header += `@group(0) @binding(${kept.length}) var<storage, ${mode}> ${binding.name}: array<${element}>;\n`;
      kept.push({ range, binding });
    });
    return {
      code:
        (dispatch.subgroups ? 'enable subgroups;\n' : '') + (dispatch.halves ? 'enable f16;\n' : '') + header + body,
      access: kept.map(({ range }) => (written.has(range.buffer) ? 'storage' : 'read-only-storage')),
      ranges: kept.map(({ range }) => range),
    };
  }

  private rangeOf(operand: Operand, window?: Binding): Range {
    const placement = this.plan.placements.get(operand);
    if (!placement) throw new RangeError('an operand that the plan does not know');
    const { dtype } = operand.type;
    const { offset: start = 0, length = operand.size - start } = window ?? {};
    const offset = 4 * wordsOf(dtype, start);
    const size = 4 * wordsOf(dtype, length);
    if (placement.kind === 'arena') {
      return { buffer: this.arena.buffers[placement.slot.arena]!, offset: placement.slot.offset + offset, size };
    }
    const first = wordsOf(dtype, placement.start) + offset / 4;
    const piece = this.tensorOf(placement.source).pieces.findLast((one) => one.start <= first)!;
    if (first + size / 4 > piece.start + piece.words) {
      throw new RangeError(`'${placement.source.name}' does not lie in the windows that it is read in`);
    }
    return { buffer: piece.buffer, offset: piece.offset + 4 * (first - piece.start), size };
  }

  private tensorOf(source: Source): DeviceTensor {
    if (source.kind === 'input') return this.inputs.tensors.get(source.name)!;
    if (source.kind === 'constant') return this.device.constant(source.value.type, source.data!);
    const tensor = this.tensors.get(source.name);
    if (!tensor) throw new RangeError(`nothing bound to ${source.kind} '${source.name}'`);
    if (bytesOf(tensor.type) !== bytesOf(source.value.type)) {
      throw new RangeError(
        `${source.kind} '${source.name}': [${tensor.type.shape}] bound to [${source.value.type.shape}]`,
      );
    }
    return tensor;
  }
}

/** Where outputs come home: each, or each window of it, at a place in one of a few buffers. */
interface Homeward {
  /** Bytes of each. */
  readonly buffers: readonly number[];
  readonly windows: readonly {
    readonly name: string;
    readonly operand: Operand;
    /** Its first element in the output. */
    readonly start: number;
    readonly buffer: number;
    /** Bytes. */
    readonly offset: number;
  }[];
}

function homewardOf(plan: Plan, maxBufferSize: number): Homeward {
  const buffers: number[] = [];
  const windows = [...plan.outputs].flatMap(([name, whole]) =>
    windowsOf(whole).map(({ operand, start }) => {
      const bytes = align(4 * operand.size);
      if (buffers.length === 0 || buffers.at(-1)! + bytes > maxBufferSize) buffers.push(0);
      const offset = buffers.at(-1)!;
      buffers[buffers.length - 1] = offset + bytes;
      return { name, operand, start: start * matrixOf(whole).width, buffer: buffers.length - 1, offset };
    }),
  );
  return { buffers, windows };
}

/** All inputs of a program in one buffer with a twin on the CPU, so that a replay uploads once. */
class PackedInputs {
  readonly tensors = new Map<string, DeviceTensor>();
  private readonly host: ArrayBuffer;
  private readonly buffer: GPUBuffer | undefined;

  constructor(
    private readonly device: Device,
    private readonly sources: readonly Source[],
  ) {
    const bytes = sources.reduce((sum, source) => sum + align(bytesOf(source.value.type)), 0);
    this.host = new ArrayBuffer(bytes);
    if (bytes === 0) return;
    this.buffer = device.buffer(bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC);
    let offset = 0;
    for (const source of sources) {
      const bytes = bytesOf(source.value.type);
      const piece = { buffer: this.buffer, offset, start: 0, words: bytes / 4 };
      this.tensors.set(source.name, { type: source.value.type, pieces: [piece] });
      offset += align(bytes);
    }
  }

  upload(values: Readonly<Record<string, HostArray>>): void {
    if (!this.buffer) return;
    for (const { name } of this.sources) {
      const tensor = this.tensors.get(name)!;
      const value = values[name];
      const elements = bytesOf(tensor.type) / 4;
      if (!value) throw new RangeError(`input '${name}' is missing`);
      if (value.length !== elements)
        throw new RangeError(`input '${name}' has ${value.length} numbers, not ${elements}`);
      if (value instanceof Int32Array !== (tensor.type.dtype === 'i32'))
        throw new RangeError(`input '${name}' is ${tensor.type.dtype}`);
      new (tensor.type.dtype === 'i32' ? Int32Array : Float32Array)(this.host, tensor.pieces[0]!.offset, elements).set(
        value,
      );
    }
    this.device.gpu.queue.writeBuffer(this.buffer, 0, this.host);
  }

  free(): void {
    if (this.buffer) this.device.free(this.buffer);
  }
}

function align(bytes: number): number {
  return Math.ceil(bytes / 256) * 256;
}

function sameRange(a: Range, b: Range): boolean {
  return a.buffer === b.buffer && a.offset === b.offset && a.size === b.size;
}
