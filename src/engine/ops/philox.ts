/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four random 32-bit words as a pure
 * function of a counter and a key, on the GPU and here with the same bits.
 */

/** `fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32>`. WGSL has no 64-bit product: high words by 16-bit halves. */
export const PHILOX_WGSL = `fn high_word(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu; let ah = a >> 16u;
  let bl = b & 0xffffu; let bh = b >> 16u;
  let low = al * bl;
  let middle = ah * bl + (low >> 16u);
  let cross = al * bh + (middle & 0xffffu);
  return ah * bh + (middle >> 16u) + (cross >> 16u);
}
fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    let a = 0xD2511F53u * c.x;
    let b = 0xCD9E8D57u * c.z;
    c = vec4<u32>(high_word(0xCD9E8D57u, c.z) ^ c.y ^ k.x, b, high_word(0xD2511F53u, c.x) ^ c.w ^ k.y, a);
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
`;

type Words = readonly [number, number, number, number];

export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter.map((word) => word >>> 0) as [number, number, number, number];
  let [k0, k1] = [key[0] >>> 0, key[1] >>> 0];
  for (let round = 0; round < 10; round++) {
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    [c0, c1, c2, c3] = [
      (highWord(0xcd9e8d57, c2) ^ c1 ^ k0) >>> 0,
      low1,
      (highWord(0xd2511f53, c0) ^ c3 ^ k1) >>> 0,
      low0,
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The upper 32 bits of a product of two 32-bit words, by 16-bit halves. */
function highWord(a: number, b: number): number {
  const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = ah * bl + Math.floor((al * bl) / 65536);
  const cross = al * bh + (middle & 0xffff);
  return (ah * bh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0;
}

/** A number in [0, 1) with 53 random bits, for choices made on the CPU (sampling, shuffles). */
export function philoxUniform(seed: number, ...place: readonly number[]): number {
  const [a = 0, b = 0, c = 0, d = 0] = place;
  const [high, low] = philox([a, b, c, d], [seed, Math.floor(seed / 2 ** 32)]);
  return (high * 2 ** 21 + (low >>> 11)) / 2 ** 53;
}
