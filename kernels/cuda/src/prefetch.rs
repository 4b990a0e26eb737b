//! Weights asked into L2 ahead of the kernel that reads them. A kernel that can do so names `PREFETCH_PARAMS` last among its
//! parameters and `PREFETCH(asks)` in its body, which one thread reaches for which `asks` is true; both are empty until the planner gives it
//! something to ask for. The copy engine takes requests in turn, so the place for them is behind those for the kernel's own operands.

use crate::dim::{Dim, product};
use crate::family::Arg;

/// The two macros as a source has them when it is built.
pub(crate) const NOTHING: &str = "#define PREFETCH_PARAMS\n#define PREFETCH(asks)\n";

// One thread of each block asks for the block's share, which is a parameter: a division would hold up the whole block. Requests do not wait,
// and none is remembered by the kernel.
const SOMETHING: &str = r#"#define PREFETCH_PARAMS , const unsigned char* prefetch_from, int prefetch_bytes, int prefetch_share
#define PREFETCH(asks) prefetch(asks, prefetch_from, prefetch_bytes, prefetch_share)

// Asks the weights of a later kernel from memory into L2: `bytes`, a multiple of 16, `share` for each block.
DEVICE void prefetch(bool asks, const unsigned char* from, int bytes, int share) {
#if __CUDA_ARCH__ >= 900
  if (!asks) return;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned long long first = (unsigned long long)block * share;
  if (first >= bytes) return;
  const int size = min(share, bytes - (int)first);
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from + first), "r"(size) : "memory");
#endif
}
"#;

/// Whether the kernel of this source can be given something to prefetch.
pub fn can(source: &str) -> bool {
    source.contains(NOTHING)
}

/// The source of a kernel that also prefetches, if it can: its launches take [`args`] after all others.
pub fn prefetching(source: &str) -> Option<String> {
    can(source).then(|| source.replacen(NOTHING, SOMETHING, 1))
}

/// What the blocks of a grid are to prefetch: `bytes`, a multiple of 16, from `offset` of the plan's weights, a multiple of 16.
pub fn args(offset: u64, bytes: u32, grid: &[Dim; 3]) -> [Arg; 3] {
    const PIECE: i64 = 256;
    let bytes = Dim::from(i64::from(bytes));
    let share = bytes.ceil_div(&product(grid)).ceil_div(&Dim::from(PIECE)) * Dim::from(PIECE);
    [Arg::Weights(offset), Arg::Size(bytes), Arg::Size(share)]
}
