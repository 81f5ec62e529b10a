/**
 * Chunk by chunk: logits = hidden Wᵀ (matmul), then statistics and, in place, d loss / d logits, then hidden gradient =
 * dlogits W and weight gradient += dlogitsᵀ hidden (matmul).
 *
 *   bias       added to the logits, where there is one
 *   softcap    of the logits, where the model has one; the gradients below are then those of its input
 *   set aside  the teacher's k entries leave the row, so that the student's tail mass is summed directly: 1 − Σq would
 *              lose it to cancellation as soon as the student is sure of itself, and the gradient holds its inverse
 *   partial    LANES threads a row, each an online softmax (Milakov & Gimelshein 2018) over its stride
 *   row        one thread a row joins the partials: loss, statistics, and the coefficients of the gradient
 *   dense      d loss / d logits everywhere but at the set-aside entries
 *   sparse     and there
 *
 * No workgroup memory and no barriers: a driver that compiles those into coroutines (llvmpipe) took nine seconds over one
 * fused kernel, and these five take half a second together.
 */
import type { Binding, Dispatch, KernelContext, Operand } from '../../graph/types.ts';
import { matmulDispatches } from '../matmul/windows.ts';
import { softcapDispatches } from '../softcap/softcap.ts';
import { f32, flatGrid, rolled } from '../wgsl.ts';
import { chunksOf } from './chunks.ts';
import { ABSENT, tailWgsl, termWgsl, type DivergenceChoice } from './divergence.ts';
import { divergenceOf, type LinearLossAttributes } from './linear-loss.ts';

/** Numbers a partial and a row's coefficients hold. */
const PARTIAL = 8;
const COEFFICIENTS = 8;

export function linearLossKernel(context: KernelContext<LinearLossAttributes>): Dispatch[] {
  const { inputs, outputs, attributes, limits, scratch } = context;
  const [hidden, weight, targets, tokenScale, ids, teacherLogits, logZ] = inputs;
  const teacherWeights = attributes.tail === 'sampling' ? inputs[7] : undefined;
  const bias = attributes.bias ? inputs.at(-1)! : undefined;
  const [V, H] = weight!.shape as [number, number];
  const rows = targets!.size;
  const [loss, stats] = outputs as [Operand, Operand];
  const hiddenGradient = attributes.hiddenGradient ? outputs[2] : undefined;
  const weightGradient = attributes.weightGradient ? outputs[attributes.hiddenGradient ? 3 : 2] : undefined;
  const biasGradient = attributes.biasGradient ? outputs.at(-1) : undefined;
  const chunks = chunksOf(rows, V, limits.maxStorageBufferBindingSize);
  const most = chunks[0]!.rows;
  const k = attributes.objective === 'none' ? 0 : ids!.size / rows;
  const lanes = V >= 4096 ? 128 : 8;
  const choice = divergenceOf(attributes);
  const row: RowShape = { V, k, lanes, attributes, choice };
  const term = choice ? termWgsl(choice) : '';

  const logits = scratch([most, V]);
  const partial = scratch([most, lanes, PARTIAL]);
  const coefficients = scratch([most, COEFFICIENTS]);
  const support = k > 0 ? scratch([most, k, 4]) : undefined;
  const rowLoss = scratch([rows]);

  const dispatches: Dispatch[] = [];
  chunks.forEach((chunk, i) => {
    const at = chunk.start;
    const window = (name: string, operand: Operand, each: number, access: Binding['access'] = 'read'): Binding => ({
      name,
      operand,
      access,
      offset: at * each,
      length: chunk.rows * each,
    });
    const read = (name: string, operand: Operand): Binding => ({ name, operand, access: 'read' });
    const write = (name: string, operand: Operand): Binding => ({ name, operand, access: 'write' });
    const add = (label: string, items: number, bindings: Binding[], body: string, functions = ''): void => {
      const grid = flatGrid(items);
      const code = `${functions}\n${grid.entry} {\n  ${grid.index}\n${body}\n}`;
      dispatches.push({
        label: `linear-loss ${label} ${chunk.rows}x${V}`,
        bindings,
        code,
        workgroups: grid.workgroups,
      });
    };

    dispatches.push(
      ...matmulDispatches({
        limits,
        a: hidden!,
        b: weight!,
        out: logits,
        M: chunk.rows,
        N: V,
        K: H,
        transB: true,
        first: { a: at },
      }),
    );
    if (bias) {
      const body = `  logits[i] += bias[i % ${V}u];`;
      add('bias', chunk.rows * V, [write('logits', logits), read('bias', bias)], body);
    }
    if (attributes.softcap !== undefined) {
      dispatches.push(...softcapDispatches(logits, logits, attributes.softcap, chunk.rows * V));
    }
    const entries = support ? [{ ...read('support', support), element: 'vec4<f32>' }] : [];
    if (support) {
      add(
        'set aside',
        chunk.rows * k,
        [
          write('logits', logits),
          window('teacher_ids', ids!, k),
          window('teacher_logits', teacherLogits!, k),
          window('teacher_log_z', logZ!, 1),
          ...(teacherWeights ? [window('teacher_weights', teacherWeights, k)] : []),
          { ...write('support', support), element: 'vec4<f32>' },
        ],
        setAside(row),
      );
    }
    add('partial', chunk.rows * lanes, [read('logits', logits), write('partial', partial)], partialSums(row));
    add(
      'row',
      chunk.rows,
      [
        read('logits', logits),
        read('partial', partial),
        window('targets', targets!, 1),
        read('token_scale', tokenScale!),
        window('stats', stats, 4, 'write'),
        window('row_loss', rowLoss, 1, 'write'),
        write('coefficients', coefficients),
        ...entries,
      ],
      joinRow(row),
      term,
    );
    if (!hiddenGradient && !weightGradient && !biasGradient) return;
    add(
      'dense',
      chunk.rows * V,
      [write('logits', logits), read('coefficients', coefficients), window('targets', targets!, 1)],
      denseGradient(row),
    );
    if (support) {
      add(
        'sparse',
        chunk.rows * k,
        [write('logits', logits), read('coefficients', coefficients), window('targets', targets!, 1), ...entries],
        sparseGradient(row),
        term,
      );
    }
    if (hiddenGradient) {
      dispatches.push(
        ...matmulDispatches({
          limits,
          a: logits,
          b: weight!,
          out: hiddenGradient,
          M: chunk.rows,
          N: H,
          K: V,
          first: { out: at },
        }),
      );
    }
    if (weightGradient) {
      dispatches.push(
        ...matmulDispatches({
          limits,
          a: logits,
          b: hidden!,
          out: weightGradient,
          M: V,
          N: H,
          K: chunk.rows,
          transA: true,
          first: { b: at },
          accumulate: i > 0,
        }),
      );
    }
    if (biasGradient) {
      add(
        'bias gradient',
        V,
        [read('logits', logits), write('gradient', biasGradient)],
        sumOfRows(chunk.rows, V, i > 0),
      );
    }
  });
  dispatches.push({
    label: `linear-loss sum ${rows}`,
    bindings: [
      { name: 'row_loss', operand: rowLoss, access: 'read' },
      { name: 'loss', operand: loss, access: 'write' },
    ],
    code: `@compute @workgroup_size(1) fn main(@builtin(global_invocation_id) gid: vec3<u32>) {
  var total = 0.0;
  for (var i = 0u; i < ${rolled(rows, 'gid.x')}; i++) { total += row_loss[i]; }
  loss[0] = total;
}`,
    workgroups: [1, 1, 1],
  });
  return dispatches;
}

/** A chunk's rows, front to back, on top of the chunks before. */
function sumOfRows(rows: number, V: number, accumulate: boolean): string {
  return `  var sum = ${accumulate ? 'gradient[i]' : '0.0'};
  for (var row = 0u; row < ${rolled(rows, 'i')}; row++) { sum += logits[row * ${V}u + i]; }
  gradient[i] = sum;`;
}

interface RowShape {
  readonly V: number;
  readonly k: number;
  readonly lanes: number;
  readonly attributes: LinearLossAttributes;
  /** undefined without a teacher. */
  readonly choice: DivergenceChoice | undefined;
}

/** What stands in a row for an entry that was set aside. */
const ASIDE = '-1e30';

/**
 * An entry: the student's logit, the teacher's log p, the id, how often it counts: once where it wasn't drawn, and never
 * where there is none (a row may have fewer than k: what fills it up stays in the row, and so in the tail). One tensor,
 * because a kernel may bind eight buffers only.
 */
function setAside({ V, k, attributes: { temperature: T, tail } }: RowShape): string {
  return `  let id = u32(teacher_ids[i]);
  let at = (i / ${k}u) * ${V}u + id;
  let there = teacher_logits[i] > ${ABSENT};
  support[i] = vec4<f32>(logits[at], teacher_logits[i] / ${f32(T)} - teacher_log_z[i / ${k}u], f32(id), select(0.0, ${tail === 'sampling' ? 'teacher_weights[i]' : '1.0'}, there));
  if (there) { logits[at] = ${ASIDE}; }`;
}

/** largest, where it is first, Σ e^(z−m), Σ e^(z−m) (z−m), Σ z, Σ e^((z−m)/T) over a lane's stride. */
function partialSums({ V, lanes, attributes: { temperature: T } }: RowShape): string {
  return `  let base = (i / ${lanes}u) * ${V}u;
  var m = ${ASIDE};
  var at = 0u;
  var e_sum = 0.0;
  var ed_sum = 0.0;
  var z_sum = 0.0;
  var t_sum = 0.0;
  for (var v = i % ${lanes}u; v < ${V}u; v += ${lanes}u) {
    let z = logits[base + v];
    if (z > -1e29) {
      if (z > m) {
        let d = max(m - z, -100.0);
        let shrink = exp(d);
        ed_sum = shrink * (ed_sum + d * e_sum);
        e_sum *= shrink;
        t_sum *= exp(d / ${f32(T)});
        m = z;
        at = v;
      }
      let e = exp(z - m);
      e_sum += e;
      ed_sum += e * (z - m);
      t_sum += exp((z - m) / ${f32(T)});
      z_sum += z;
    }
  }
  let to = i * ${PARTIAL}u;
  partial[to] = m;
  partial[to + 1u] = f32(at);
  partial[to + 2u] = e_sum;
  partial[to + 3u] = ed_sum;
  partial[to + 4u] = z_sum;
  partial[to + 5u] = t_sum;`;
}

/** Coefficients: m, Σ e^(z−m), token scale (0 where not counted), Σ e^((z−m)/T), g − G outside, G, shifts of log p and log q. */
function joinRow({ V, k, lanes, attributes, choice }: RowShape): string {
  const { temperature: T, alpha, label_smoothing: smoothing } = attributes;
  const overLanes = (body: string): string =>
    `for (var lane = 0u; lane < ${rolled(lanes, 'i')}; lane++) {\n    let p0 = (i * ${lanes}u + lane) * ${PARTIAL}u;\n    ${body}\n  }`;
  const overSupport = (body: string): string =>
    choice
      ? `for (var j = 0u; j < ${rolled(k, 'i')}; j++) {\n    let entry = support[i * ${k}u + j];
    if (entry.w == 0.0) { continue; }
    let z = entry.x;\n    ${body}\n  }`
      : '';
  return `  var m = ${ASIDE};
  var top = 0u;
  ${overLanes('if (partial[p0] > m || (partial[p0] == m && u32(partial[p0 + 1u]) < top)) { m = partial[p0]; top = u32(partial[p0 + 1u]); }')}
  ${overSupport(`let id = u32(entry.z);\n    if (z > m || (z == m && id < top)) { m = z; top = id; }`)}

  var e_sum = 0.0;
  var ed_sum = 0.0;
  var z_sum = 0.0;
  var t_out = 0.0;
  ${overLanes(`let d = max(partial[p0] - m, -100.0);
    let shrink = exp(d);
    e_sum += shrink * partial[p0 + 2u];
    ed_sum += shrink * (partial[p0 + 3u] + d * partial[p0 + 2u]);
    z_sum += partial[p0 + 4u];
    t_out += exp(d / ${f32(T)}) * partial[p0 + 5u];`)}
  var t_in = 0.0;
  ${overSupport(`let e = exp(z - m);
    e_sum += e;
    ed_sum += e * (z - m);
    z_sum += z;
    t_in += exp((z - m) / ${f32(T)});`)}

  let log_sum = log(e_sum);
  let target_id = targets[i];
  let counted = target_id != -100;
  var nll = 0.0;
  var divergence = 0.0;
  var forward = 0.0;
  let to = i * ${COEFFICIENTS}u;
  coefficients[to + 2u] = 0.0;
  row_loss[i] = 0.0;
  if (counted) {
    let scale = token_scale[0];
    var target_logit = logits[i * ${V}u + u32(target_id)];
    ${overSupport(`if (i32(entry.z) == target_id) { target_logit = z; }`)}
    nll = log_sum - (target_logit - m);
    let z_t = t_in + t_out;
    coefficients[to] = m;
    coefficients[to + 1u] = e_sum;
    coefficients[to + 2u] = scale;
    coefficients[to + 3u] = z_t;
    ${choice ? compared(choice, T, overSupport) : ''}
    let smoothed = ${f32(1 - smoothing)} * nll + ${f32(smoothing)} * (log_sum + m - z_sum / ${f32(V)});
    row_loss[i] = scale * (${f32(1 - alpha)} * smoothed + ${f32(alpha * T * T)} * divergence);
  }
  stats[i * 4u] = nll;
  stats[i * 4u + 1u] = forward;
  stats[i * 4u + 2u] = log_sum - ed_sum / e_sum;
  stats[i * 4u + 3u] = select(0.0, 1.0, counted && i32(top) == target_id);`;
}

/** D of a row, forward KL beside it, and what its gradient needs. */
function compared(choice: DivergenceChoice, T: number, overSupport: (body: string) => string): string {
  const { tail, objective } = choice;
  const onlySupport = tail === 'renormalize' && objective === 'reverse_kl';
  const often = howOften(choice);
  return `let log_z_student = log(z_t);
    let q_out = t_out / z_t;
    var p_sum = 0.0;
    ${overSupport('p_sum += exp(max(entry.y, -100.0));')}
    let log_p_shift = ${tail === 'renormalize' ? '-log(p_sum)' : '0.0'};
    let log_q_shift = ${onlySupport ? 'log_z_student - log(t_in)' : '0.0'};
    var total = 0.0;
    var slope = 0.0;
    ${overSupport(`let log_p = entry.y + log_p_shift;
    let log_q = (z - m) / ${f32(T)} - log_z_student;
    let of_entry = term(log_p, log_q + log_q_shift)${often};
    divergence += of_entry.x;
    total += of_entry.y;
    forward += exp(max(log_p, -100.0)) * (log_p - log_q)${often};`)}
    ${tailWgsl(choice)}
    coefficients[to + 4u] = ${onlySupport ? '0.0' : 'slope - total'};
    coefficients[to + 5u] = total;
    coefficients[to + 6u] = log_p_shift;
    coefficients[to + 7u] = log_q_shift;`;
}

const howOften = ({ tail }: DivergenceChoice): string => (tail === 'sampling' ? ' * entry.w' : '');

/** scale · (1 − α) · d CE / dz at v: q − (1 − ε)[v = target] − ε / V */
function crossEntropyGradient({ V, attributes: { alpha, label_smoothing: smoothing } }: RowShape, v: string): string {
  return `scale * ${f32(1 - alpha)} * (exp(max(z - coefficients[c], -100.0)) / coefficients[c + 1u] - select(0.0, ${f32(1 - smoothing)}, i32(${v}) == targets[row]) - ${f32(smoothing / V)})`;
}

/** The gradient of a capped logit `z`, as that of what was capped. */
function throughCap({ softcap }: LinearLossAttributes, gradient: string): string {
  return softcap === undefined ? gradient : `(${gradient}) * (1.0 - z * z * ${f32(1 / softcap ** 2)})`;
}

function denseGradient(shape: RowShape): string {
  const { V, k, attributes } = shape;
  const { temperature: T, alpha } = attributes;
  const kl =
    k > 0
      ? ` + scale * ${f32(alpha * T)} * coefficients[c + 4u] * exp(max((z - coefficients[c]) / ${f32(T)}, -100.0)) / coefficients[c + 3u]`
      : '';
  return `  let row = i / ${V}u;
  let c = row * ${COEFFICIENTS}u;
  let scale = coefficients[c + 2u];
  let z = logits[i];
  if (scale == 0.0) {
    logits[i] = 0.0;
  } else ${k > 0 ? 'if (z > -1e29) ' : ''}{
    logits[i] = ${throughCap(attributes, `${crossEntropyGradient(shape, `i % ${V}u`)}${kl}`)};
  }`;
}

function sparseGradient(shape: RowShape): string {
  const { V, k, attributes, choice } = shape;
  const { temperature: T, alpha } = attributes;
  return `  let row = i / ${k}u;
  let c = row * ${COEFFICIENTS}u;
  let scale = coefficients[c + 2u];
  if (scale == 0.0) { return; }
  let entry = support[i];
  if (entry.w == 0.0) { return; }
  let id = u32(entry.z);
  let z = entry.x;
  let log_q = (z - coefficients[c]) / ${f32(T)} - log(coefficients[c + 3u]) + coefficients[c + 7u];
  let kl = term(entry.y + coefficients[c + 6u], log_q).y${howOften(choice!)} - exp(max(log_q, -100.0)) * coefficients[c + 5u];
  logits[row * ${V}u + id] = ${throughCap(attributes, `${crossEntropyGradient(shape, 'id')} + scale * ${f32(alpha * T)} * kl`)};`;
}
