/**
 * From a graph to a fixed list of dispatches with every byte placed, before anything runs.
 *
 *   needed nodes ─▶ order ─▶ fuse ─▶ hoist ─▶ kernels ─▶ lifetimes ─▶ offsets in the arena ─▶ Plan
 *
 * The plan knows the memory and the work of a replay; the page shows them before the person presses start.
 */
import type { Graph, Source } from '../graph/graph.ts';
import {
  bytesOf,
  concrete,
  sameShape,
  sizeOf,
  wordsOf,
  type Dispatch,
  type DType,
  type KernelContext,
  type KernelLimits,
  type Node,
  type Operand,
  type Value,
} from '../graph/types.ts';
import { matrixOf, rowWindows, type SizeLimits } from '../graph/windows.ts';
import { allocate, type Lifetime, type Slot } from './arena.ts';
import { fuse } from './fuse.ts';
import { hoist, order } from './order.ts';
import { savedBytes } from './saved.ts';

/** Where a dispatch finds an operand: in the arena, or in a source from its element `start` on. */
export type Placement =
  | { readonly kind: 'arena'; readonly slot: Slot }
  | { readonly kind: 'source'; readonly source: Source; readonly start: number };

export interface PlannedDispatch {
  readonly dispatch: Dispatch;
  readonly op: string;
  readonly flops: number;
  /** Its share of its op's least traffic. */
  readonly bytes: number;
}

export interface Plan {
  readonly graph: Graph;
  readonly dispatches: readonly PlannedDispatch[];
  readonly placements: ReadonlyMap<Operand, Placement>;
  /** Outputs of the graph and where they lie at the end. */
  readonly outputs: ReadonlyMap<string, Operand>;
  /** Sources that some dispatch reads or writes. */
  readonly sources: readonly Source[];
  /** Bytes of each arena buffer (more than one only where a device's largest buffer is too small). */
  readonly arenas: readonly number[];
  readonly memory: PlannedMemory;
  readonly flops: number;
  /** The least traffic between memory and processor, bytes. */
  readonly traffic: number;
  /** Bytes that the backward pass must find of the forward pass (saved.ts). */
  readonly saved: number;
}

/** Bytes by purpose. */
export interface PlannedMemory {
  readonly arena: number;
  readonly parameters: number;
  readonly states: number;
  readonly constants: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** Storage buffers a kernel may bind on every device (maxStorageBuffersPerShaderStage). */
const MOST_BINDINGS = 8;

export function plan(graph: Graph, limits: KernelLimits & SizeLimits): Plan {
  const nodes = hoist(graph, fuse(graph, order(graph)));
  const operands = new Map<Value, Operand>();
  const placements = new Map<Operand, Placement>();
  const lifetimes = new Map<Operand, Lifetime>();
  const dispatches: PlannedDispatch[] = [];
  const sources = new Set<Source>();
  let flops = 0;
  let traffic = 0;

  const operandOf = (value: Value): Operand => {
    const known = operands.get(value);
    if (known) return known;
    const operand = inWindows(newOperand(concrete(value.type.shape), value.type.dtype), limits);
    operands.set(value, operand);
    const source = graph.sourceOf(value);
    const { width } = matrixOf(operand);
    if (source) {
      placements.set(operand, { kind: 'source', source, start: 0 });
      for (const { operand: window, start } of operand.windows ?? [])
        placements.set(window, { kind: 'source', source, start: start * width });
    }
    return operand;
  };
  const touch = (operand: Operand, when: number): void => {
    if (operand.windows) return operand.windows.forEach((window) => touch(window.operand, when));
    const placed = placements.get(operand);
    if (placed?.kind === 'source') return void sources.add(placed.source);
    const life = lifetimes.get(operand);
    lifetimes.set(operand, {
      bytes: bytesOf(operand.type),
      first: Math.min(life?.first ?? when, when),
      last: Math.max(life?.last ?? when, when),
    });
  };

  const lastRead = new Map<Value, number>();
  nodes.forEach((node, when) => node.inputs.forEach((value) => lastRead.set(value, when)));
  for (const value of graph.outputs.values()) lastRead.set(value, nodes.length);
  const replaced = new Set<Value>();
  /** Whether `value` can be made where `old` lies: of its type, in the arena, and nobody needs it from this node on. */
  const canReplace = (old: Value, value: Value, when: number): boolean =>
    !replaced.has(old) &&
    lastRead.get(old) === when &&
    old.type.dtype === value.type.dtype &&
    sameShape(old.type.shape, value.type.shape) &&
    placements.get(operandOf(old))?.kind !== 'source';

  nodes.forEach((node, when) => {
    for (const [i, value] of node.outputs.entries()) {
      const target = node.op.inPlace?.[i];
      if (target !== undefined) operands.set(value, operandOf(node.inputs[target]!));
      else {
        const free = replaceable(node, i).find((input) => canReplace(input, value, when));
        if (!free) continue;
        replaced.add(free);
        operands.set(value, operandOf(free));
      }
    }
    const inputs = node.inputs.map(operandOf);
    const outputs = node.outputs.map(operandOf);
    const scratch: Operand[] = [];
    const { kernel, name } = node.op;
    if (!kernel) throw new RangeError(`'${name}' has no kernel`);
    const lower = (part: Pick<KernelContext, 'inputs' | 'outputs'>): readonly Dispatch[] =>
      kernel({
        ...part,
        attributes: node.attributes,
        limits,
        scratch(shape, dtype = 'f32') {
          const operand = newOperand(shape, dtype);
          scratch.push(operand);
          return operand;
        },
      });
    const lowered = (node.op.rowwise ? byWindow(inputs, outputs) : [{ inputs, outputs }]).flatMap(lower);
    for (const operand of [...inputs, ...outputs, ...scratch]) touch(operand, when);
    const cost = node.op.cost(
      node.inputs.map((value) => value.type),
      node.outputs.map((value) => value.type),
      node.attributes,
    );
    flops += cost.flops;
    traffic += cost.bytes;
    const crowded = lowered.find((dispatch) => dispatch.bindings.length > MOST_BINDINGS);
    if (crowded) throw new RangeError(`'${crowded.label}' binds ${crowded.bindings.length} buffers`);
    for (const dispatch of lowered) refuseUnbindable(name, dispatch, limits);
    const share = shareOf(cost.flops, lowered);
    const bytes = cost.bytes / lowered.length;
    for (const dispatch of lowered)
      dispatches.push({ dispatch, op: node.op.name, flops: dispatch.flops ?? share, bytes });
  });

  const outputs = new Map<string, Operand>();
  for (const [name, value] of graph.outputs) {
    const operand = operandOf(value);
    touch(operand, nodes.length);
    outputs.set(name, operand);
  }

  const { slots, arenas } = allocate(lifetimes, limits);
  for (const [operand, slot] of slots) placements.set(operand, { kind: 'arena', slot });
  return {
    graph,
    dispatches,
    placements,
    outputs,
    sources: [...sources],
    arenas,
    memory: {
      arena: sum(arenas),
      ...bytesBySource([...sources]),
      outputs: sum([...outputs.values()].map((operand) => 4 * operand.size)),
    },
    flops,
    traffic,
    saved: savedBytes(graph, nodes),
  };
}

/** Inputs that an output may take the place of. */
function replaceable({ op, inputs }: Node, output: number): readonly Value[] {
  if (op.elementwise) return inputs;
  return op.replaces !== undefined && output === 0 ? [inputs[op.replaces]!] : [];
}

/** What is left of an op's work for each dispatch that does not state its own. */
function shareOf(flops: number, dispatches: readonly Dispatch[]): number {
  const stated = sum(dispatches.map((dispatch) => dispatch.flops ?? 0));
  const silent = dispatches.filter((dispatch) => dispatch.flops === undefined).length;
  return silent === 0 ? 0 : Math.max(0, flops - stated) / silent;
}

/** Larger than the device binds, an operand lies in windows. */
function inWindows(operand: Operand, limits: SizeLimits): Operand {
  const windows = rowWindows(operand.type, limits);
  if (windows.length === 1) return operand;
  const { shape, type } = operand;
  return {
    ...operand,
    windows: windows.map(({ start, rows }) => ({
      start,
      rows,
      operand: newOperand(shape.length < 2 ? [rows] : [rows, shape.at(-1)!], type.dtype),
    })),
  };
}

/** The operands of a rowwise op window by window; what lies in none takes part whole in each. */
function byWindow(
  inputs: readonly Operand[],
  outputs: readonly Operand[],
): { inputs: readonly Operand[]; outputs: readonly Operand[] }[] {
  const cut = [...inputs, ...outputs].find(({ windows }) => windows);
  if (!cut) return [{ inputs, outputs }];
  const starts = (operand: Operand): string => String(operand.windows?.map(({ start }) => start));
  return cut.windows!.map((_, i) => {
    const part = (operand: Operand): Operand =>
      starts(operand) === starts(cut) ? operand.windows![i]!.operand : operand;
    return { inputs: inputs.map(part), outputs: outputs.map(part) };
  });
}

/** @throws RangeError where a dispatch would bind more in one piece than the device does */
function refuseUnbindable(op: string, { bindings }: Dispatch, limits: SizeLimits): void {
  const most = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  for (const { operand, offset = 0, length = operand.size - offset } of bindings) {
    const bytes = 4 * wordsOf(operand.type.dtype, length);
    if (bytes <= most && !operand.windows) continue;
    throw new RangeError(
      `'${op}' takes [${operand.shape.join(', ')}] (${megabytes(bytes)}) in one piece, and this device binds ${megabytes(most)}`,
    );
  }
}

const megabytes = (bytes: number): string => `${Number((bytes / 1e6).toPrecision(3))} MB`;

function newOperand(shape: readonly number[], dtype: DType): Operand {
  return { type: { shape, dtype }, size: sizeOf(shape), shape };
}

function bytesBySource(
  sources: readonly Source[],
): Pick<PlannedMemory, 'parameters' | 'states' | 'constants' | 'inputs'> {
  const of = (kind: Source['kind']): number =>
    sum(sources.filter((source) => source.kind === kind).map((source) => bytesOf(source.value.type)));
  return { parameters: of('parameter'), states: of('state'), constants: of('constant'), inputs: of('input') };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, n) => total + n, 0);
}
