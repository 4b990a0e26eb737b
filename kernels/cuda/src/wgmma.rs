//! Text of `wgmma_step` and `wgmma_values` for one tile width: Hopper's asynchronous matrix product has an instruction for each, with all
//! accumulator registers as operands.

use bakelite_host::DType;

/// `wgmma_step(d, a, b, add)`: d = a · b, or d += a · b, on 64 x `n` x 16 halves of shared memory, asynchronously. PTX for newer GPUs, which
/// have no wgmma, gets the same with `mma.sync`.
pub fn step(n: u32, dtype: DType) -> String {
    let load = "\
  const unsigned row = threadIdx.x / 32 % 4 * 16 + lane % 16;
  ldmatrix_x4(fa, base + ((a & 0x3ff8) << 4) + row * 128 + (((a & 7) + lane / 16 ^ row & 7) << 4));";
    of_two_tiles("step", "d = a * b on 64", 0, load, n, dtype)
}

/// `wgmma_across(d, a, b, add)`: the same with `a` of 16 rows of 64 halves, one for each of k.
pub fn across(n: u32, dtype: DType) -> String {
    let load = "\
  const unsigned row = lane / 16 * 8 + lane % 8, chunk = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
  ldmatrix_x4_trans(fa, base + ((a & 0x3fff) << 4) + row * 128 + ((chunk ^ row) & 7) * 16);";
    of_two_tiles("across", "d = a * b, of which a lies in rows of k, on 64", 1, load, n, dtype)
}

// `across`: whether a's rows are k. `load`: how mma.sync's operand `fa` is loaded for a warp.
fn of_two_tiles(name: &str, what: &str, across: u32, load: &str, n: u32, dtype: DType) -> String {
    let (kind, count) = (kind(dtype), n / 2);
    let (names, registers) = accumulators(count);
    format!(
        "// {what} x {n} x 16, `add`ed to d or not, asynchronously; what only sm_90a has, newer GPUs do with mma.sync.
DEVICE void wgmma_{name}(float (&d)[{count}], uint64_t a, uint64_t b, bool add) {{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      \"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{}, 0;\\n\"
      \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} \"
      \"{{{names}}}, \"
      \"%{count}, %{}, p, 1, 1, {across}, 0;\\n}}\"
      : {registers}
      : \"l\"(a), \"l\"(b), \"r\"((int)add));
#else
  const unsigned lane = threadIdx.x % 32;
  const unsigned char* const base = reinterpret_cast<const unsigned char*>(__cvta_shared_to_generic(0));
  const unsigned char* const tile_b = base + ((b & 0x3ff8) << 4);
  uint32_t fa[4], fb[2];
{load}
#pragma unroll
  for (int j = 0; j < {}; ++j) {{
    for (int e = 0; e < 4; ++e) d[4 * j + e] = add ? d[4 * j + e] : 0.f;
    ldmatrix_x2(fb, tile_b + (j * 8 + lane % 8) * 128 + (((b & 7) + lane / 8 % 2 ^ lane & 7) << 4));
    mma_m16n8k16<element_t>(reinterpret_cast<float(&)[4]>(d[4 * j]), fa, fb);
  }}
#endif
}}
",
        count + 2,
        count + 1,
        n / 8,
    )
}

/// `wgmma_values(d, a, b, add)`: the same with `a` in registers, laid out as `mma_m16n8k16` wants it, and `b` of 16 rows of `n` halves,
/// in panels of 64 columns.
pub fn values(n: u32, dtype: DType) -> String {
    let (kind, count) = (kind(dtype), n / 2);
    let (names, registers) = accumulators(count);
    let left: Vec<String> = (count..count + 4).map(|i| format!("%{i}")).collect();
    format!(
        "// d = a * b on 64 x {n} x 16 with a in registers and b's columns in panels of 64, `add`ed to d or not, asynchronously.
DEVICE void wgmma_values(float (&d)[{count}], const uint32_t (&a)[4], uint64_t b, bool add) {{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      \"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{}, 0;\\n\"
      \"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} \"
      \"{{{names}}}, \"
      \"{{{}}}, %{}, p, 1, 1, 1;\\n}}\"
      : {registers}
      : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b), \"r\"((int)add));
#else
  const unsigned row = threadIdx.x % 16;
  const unsigned char* const base = reinterpret_cast<const unsigned char*>(__cvta_shared_to_generic(0));
  const unsigned char* const tile = base + ((b & 0x3fff) << 4) + row * 128;
  const unsigned panel = (b >> 16 & 0x3fff) << 4;
#pragma unroll
  for (int j = 0; j < {}; ++j) {{
    uint32_t right[2];
    for (int e = 0; e < 4; ++e) d[4 * j + e] = add ? d[4 * j + e] : 0.f;
    ldmatrix_x2_trans(right, tile + j / 8 * panel + ((j ^ row) & 7) * 16);
    mma_m16n8k16<element_t>(reinterpret_cast<float(&)[4]>(d[4 * j]), a, right);
  }}
#endif
}}
",
        count + 5,
        left.join(", "),
        count + 4,
        n / 8,
    )
}

const fn kind(dtype: DType) -> &'static str {
    if matches!(dtype, DType::BF16) { "bf16" } else { "f16" }
}

// Names of the accumulators in the instruction, and the operands that they stand for.
fn accumulators(count: u32) -> (String, String) {
    let list = |each: &dyn Fn(u32) -> String, most: u32| -> String {
        let rows: Vec<String> = (0..count.div_ceil(most))
            .map(|r| (r * most..count.min((r + 1) * most)).map(each).collect::<Vec<_>>().join(", "))
            .collect();
        rows.join(", \"\n      \"")
    };
    let names = list(&|i| format!("%{i}"), 16);
    let registers = list(&|i| format!("\"+f\"(d[{i}])"), 8).replace(", \"\n      \"", ",\n        ");
    (names, registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accumulator_is_an_operand_once() {
        for n in [8, 32, 96, 256] {
            let text = step(n, DType::F16);
            let count = n / 2;
            for i in 0..count {
                assert_eq!(text.matches(&format!("(d[{i}])")).count(), 1, "{text}");
                assert!(text.contains(&format!("%{i}")), "{text}");
            }
            assert!(text.contains(&format!("m64n{n}k16.f32.f16.f16")), "{text}");
            assert!(text.contains(&format!("%{count}, %{}, p", count + 1)), "{text}");
        }
        assert!(step(64, DType::BF16).contains("f32.bf16.bf16"));
        assert!(step(8, DType::F16).contains("1, 1, 0, 0;") && across(8, DType::F16).contains("1, 1, 1, 0;"));
    }

    #[test]
    fn a_left_operand_in_registers_comes_after_the_accumulators() {
        let text = values(64, DType::F16);
        assert!(text.contains("{%32, %33, %34, %35}, %36, p, 1, 1, 1;"), "{text}");
        assert!(text.contains("setp.ne.b32 p, %37, 0;"), "{text}");
    }
}
