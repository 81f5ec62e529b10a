/**
 * Chunk by chunk: logits = hidden Wᵀ (matmul), one workgroup a row that turns them into statistics and, in place, into
 * d loss / d logits, then hidden gradient = dlogits W and weight gradient += dlogitsᵀ hidden (matmul).
 *
 * A row's pass with a teacher: the k entries of the support are set aside and hidden from the row, so that the student's
 * tail mass is summed directly. 1 − Σq would lose it to cancellation as soon as the student is sure of itself, and the
 * gradient holds its inverse.
 */
import type { Dispatch, KernelContext, Operand } from '../../graph/types.ts';
import { matmulDispatch } from '../matmul/kernel.ts';
import { f32, rowGrid, workgroupSum } from '../wgsl.ts';
import { chunksOf } from './chunks.ts';
import { forwardKl } from './forward-kl.ts';
import type { LinearLossAttributes } from './linear-loss.ts';

export function linearLossKernel(context: KernelContext<LinearLossAttributes>): Dispatch[] {
  const { inputs, outputs, attributes, limits, scratch } = context;
  const [hidden, weight, targets, tokenScale, ids, teacherLogits, logZ] = inputs;
  const [V, H] = weight!.shape as [number, number];
  const rows = targets!.size;
  const [loss, stats] = outputs as [Operand, Operand];
  const hiddenGradient = attributes.hiddenGradient ? outputs[2] : undefined;
  const weightGradient = attributes.weightGradient ? outputs[attributes.hiddenGradient ? 3 : 2] : undefined;
  const chunks = chunksOf(rows, V, limits.maxStorageBufferBindingSize);
  const logits = scratch([chunks[0]!.rows, V]);
  const rowLoss = scratch([rows]);
  const k = ids ? ids.size / rows : 0;

  const dispatches: Dispatch[] = [];
  chunks.forEach((chunk, i) => {
    const window = { M: chunk.rows, N: V, K: H };
    const at = chunk.start;
    dispatches.push(
      matmulDispatch({ a: hidden!, b: weight!, out: logits, ...window, transB: true, offsets: { a: at * H } }),
    );
    const grid = rowGrid(chunk.rows, threadsFor(V));
    dispatches.push({
      label: `linear-loss rows ${chunk.rows}x${V}`,
      bindings: [
        { name: 'logits', operand: logits, access: 'write' },
        { name: 'targets', operand: targets!, access: 'read', offset: at, length: chunk.rows },
        { name: 'token_scale', operand: tokenScale!, access: 'read' },
        { name: 'stats', operand: stats, access: 'write', offset: at * 4, length: chunk.rows * 4 },
        { name: 'row_loss', operand: rowLoss, access: 'write', offset: at, length: chunk.rows },
        ...(attributes.objective === 'none'
          ? []
          : ([
              { name: 'teacher_ids', operand: ids!, access: 'read', offset: at * k, length: chunk.rows * k },
              {
                name: 'teacher_logits',
                operand: teacherLogits!,
                access: 'read',
                offset: at * k,
                length: chunk.rows * k,
              },
              { name: 'teacher_log_z', operand: logZ!, access: 'read', offset: at, length: chunk.rows },
            ] as const)),
      ],
      code: rowCode(grid, V, k, threadsFor(V), attributes),
      workgroups: grid.workgroups,
    });
    if (hiddenGradient) {
      dispatches.push(
        matmulDispatch({
          a: logits,
          b: weight!,
          out: hiddenGradient,
          M: chunk.rows,
          N: H,
          K: V,
          offsets: { out: at * H },
        }),
      );
    }
    if (weightGradient) {
      dispatches.push(
        matmulDispatch({
          a: logits,
          b: hidden!,
          out: weightGradient,
          M: V,
          N: H,
          K: chunk.rows,
          transA: true,
          offsets: { b: at * H },
          accumulate: i > 0,
        }),
      );
    }
  });
  dispatches.push({
    label: `linear-loss sum ${rows}`,
    bindings: [
      { name: 'row_loss', operand: rowLoss, access: 'read' },
      { name: 'loss', operand: loss, access: 'write' },
    ],
    code: `var<workgroup> sums: array<f32, 64>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lid: u32) {
  var sum = 0.0;
  for (var i = lid; i < ${rows}u; i += 64u) { sum += row_loss[i]; }
  sums[lid] = sum;
  workgroupBarrier();
  if (lid == 0u) {
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) { total += sums[i]; }
    loss[0] = total;
  }
}`,
    workgroups: [1, 1, 1],
  });
  return dispatches;
}

function threadsFor(vocab: number): number {
  return vocab >= 4096 ? 256 : 64;
}

function rowCode(
  grid: ReturnType<typeof rowGrid>,
  V: number,
  k: number,
  threads: number,
  attributes: LinearLossAttributes,
): string {
  const {
    temperature: T,
    alpha,
    label_smoothing: smoothing,
    hiddenGradient,
    weightGradient,
    objective,
    tail,
  } = attributes;
  const gradient = hiddenGradient || weightGradient;
  const distil = objective !== 'none';
  // loops over the row and over the support, in the order of the threads
  const overRow = (body: string): string =>
    `for (var v = lid; v < ${V}u; v += ${threads}u) {\n      let z = logits[base + v];\n      ${body}\n    }`;
  const overSupport = (body: string): string =>
    `for (var j = lid; j < ${k}u; j += ${threads}u) {\n      ${body}\n    }`;

  return `
var<workgroup> largest_of: array<f32, ${threads}>;
var<workgroup> best: array<u32, ${threads}>;
${distil ? `var<workgroup> support: array<f32, ${k}>;` : ''}

${workgroupSum(threads)}

// exp that never sees the entries set aside (-1e30)
fn exp_of(x: f32) -> f32 { return exp(max(x, -100.0)); }

${grid.entry} {
  ${grid.index}
  let base = row * ${V}u;
  let target_id = targets[row];
  let counted = target_id != -100;

  // the largest logit and where it is first
  var largest = logits[base];
  var at = 0u;
  for (var v = lid; v < ${V}u; v += ${threads}u) {
    let z = logits[base + v];
    if (v == lid || z > largest) { largest = z; at = v; }
  }
  if (lid >= ${V}u) { largest = logits[base]; at = 0u; }
  largest_of[lid] = largest;
  best[lid] = at;
  workgroupBarrier();
  if (lid < 16u) {
    for (var i = lid + 16u; i < ${threads}u; i += 16u) {
      if (largest_of[i] > largest || (largest_of[i] == largest && best[i] < at)) { largest = largest_of[i]; at = best[i]; }
    }
  }
  workgroupBarrier();
  if (lid < 16u) { largest_of[lid] = largest; best[lid] = at; }
  workgroupBarrier();
  var m = largest_of[0];
  var top = best[0];
  for (var i = 1u; i < 16u; i++) {
    if (largest_of[i] > m || (largest_of[i] == m && best[i] < top)) { m = largest_of[i]; top = best[i]; }
  }

  // sum exp, sum exp * (z - m), sum (z - m)
  var partial = vec4<f32>();
  ${overRow('let d = z - m;\n      let e = exp(d);\n      partial += vec4<f32>(e, e * d, d, 0.0);')}
  let sums = sum_all(lid, partial);
  let log_sum = log(sums.x);
  let entropy = log_sum - sums.y / sums.x;
  var target_logit = m;
  if (counted) { target_logit = logits[base + u32(target_id)]; }
  let nll = log_sum - (target_logit - m);
  workgroupBarrier();

  if (!counted) {
    if (lid == 0u) {
      stats[row * 4u] = 0.0;
      stats[row * 4u + 1u] = 0.0;
      stats[row * 4u + 2u] = entropy;
      stats[row * 4u + 3u] = 0.0;
      row_loss[row] = 0.0;
    }
    ${gradient ? `for (var v = lid; v < ${V}u; v += ${threads}u) { logits[base + v] = 0.0; }` : ''}
    return;
  }

  let scale = token_scale[0];
  ${distil ? divergenceCode(k, T, tail, overRow, overSupport) : ''}

  if (lid == 0u) {
    stats[row * 4u] = nll;
    stats[row * 4u + 1u] = ${distil ? 'divergence' : '0.0'};
    stats[row * 4u + 2u] = entropy;
    stats[row * 4u + 3u] = select(0.0, 1.0, top == u32(target_id));
    let smoothed = ${f32(1 - smoothing)} * nll + ${f32(smoothing)} * (log_sum - sums.z / ${f32(V)});
    row_loss[row] = scale * (${f32(1 - alpha)} * smoothed${distil ? ` + ${f32(alpha * T * T)} * divergence` : ''});
  }
  ${gradient ? gradientCode(V, T, alpha, smoothing, distil, overRow, overSupport) : ''}
}`;
}

/** The support set aside, the sums of the divergence over it and over the rest. */
function divergenceCode(
  k: number,
  T: number,
  tail: LinearLossAttributes['tail'],
  overRow: (body: string) => string,
  overSupport: (body: string) => string,
): string {
  return `let log_z = teacher_log_z[row];
  let support_base = row * ${k}u;
    ${overSupport(`let id = base + u32(teacher_ids[support_base + j]);
      support[j] = logits[id];
      logits[id] = -1e30;`)}
  storageBarrier();
  workgroupBarrier();
  var mass = vec4<f32>();
    ${overRow(`mass.x += exp_of((z - m) / ${f32(T)});`)}
    ${overSupport(`mass.y += exp((support[j] - m) / ${f32(T)});`)}
  let masses = sum_all(lid, mass);
  let z_t = masses.x + masses.y;
  let log_z_student = log(z_t);
  let q_out = masses.x / z_t;
  let q_in = masses.y / z_t;
  var over = vec4<f32>();
    ${overSupport(`let log_p = teacher_logits[support_base + j] / ${f32(T)} - log_z;
      let p = exp(log_p);
      let log_q = (support[j] - m) / ${f32(T)} - log_z_student;
      over += vec4<f32>(p, p * log_p, p * log_q, 0.0);`)}
  let overs = sum_all(lid, over);
  let p_sum = overs.x;
  let plogp = overs.y;
  let p_logq = overs.z;
    ${forwardKl.wgsl(tail)}`;
}

function gradientCode(
  V: number,
  T: number,
  alpha: number,
  smoothing: number,
  distil: boolean,
  overRow: (body: string) => string,
  overSupport: (body: string) => string,
): string {
  // d CE / dz at v, from softmax q1: q1 − (1 − ε)[v = target] − ε / V
  const ce = (v: string, z: string): string =>
    `scale * ${f32(1 - alpha)} * (exp_of(${z} - m) / sums.x - select(0.0, ${f32(1 - smoothing)}, ${v} == u32(target_id)) - ${f32(smoothing / V)})`;
  const kl = f32(alpha * T);
  if (!distil) return overRow(`logits[base + v] = ${ce('v', 'z')};`);
  return `${overRow(`if (z > -1e29) { logits[base + v] = ${ce('v', 'z')} + scale * ${kl} * dense * exp_of((z - m) / ${f32(T)}) / z_t; }`)}
  // entries set aside are told by their value: none may be written while others still look
  storageBarrier();
  workgroupBarrier();
    ${overSupport(`let id = u32(teacher_ids[support_base + j]);
      let q = exp((support[j] - m) / ${f32(T)}) / z_t;
      let p = p_scale * exp(teacher_logits[support_base + j] / ${f32(T)} - log_z);
      logits[base + id] = ${ce('id', 'support[j]')} + scale * ${kl} * (dense * q + ratio * q - p);`)}`;
}
