// gemm.gemv: a matrix product with at most ROWS rows, bound by reading b once. With b's columns contiguous along k a warp takes
// COLUMNS columns and its lanes split k; else each lane takes ALIGN_B columns and the warps split k. GROUPS warps share the
// same columns and meet in shared memory.

constexpr int THREADS = 32 * WARPS;
constexpr int SPREAD = B_ALONG_K ? WARPS / GROUPS * COLUMNS : 32 * ALIGN_B;   // columns of a block
static_assert(B_ALONG_K || GROUPS == WARPS, "all warps split k");

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* a, const element_t* b RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ acc_t sums[GROUPS][ROWS][SPREAD];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const index_t tiles_n = (SIZE_N + SPREAD - 1) / SPREAD;
  index_t block = blockIdx.x, z = blockIdx.z;
  if (FOLD) z = block / tiles_n, block -= z * tiles_n;
  const int split = SPLITS > 1 ? z % SPLITS : 0;
  z /= SPLITS;
  const index_t n0 = block * SPREAD;
  const element_t* from_a = a + z * A_BATCH;
  const element_t* from_b = b + z * B_BATCH;
  dependency_wait();

  if constexpr (B_ALONG_K) {
    // Each step of k is one vector for every lane of the group.
    constexpr int V = ALIGN_B, STRIDE = 32 * V;
    const int group = warp % GROUPS, at = warp / GROUPS * COLUMNS;
    const index_t share = (SIZE_K + SPLITS * V - 1) / (SPLITS * V) * V;
    const index_t end = (split + 1) * share < SIZE_K ? (split + 1) * share : SIZE_K;
    acc_t acc[ROWS][COLUMNS] = {};
#pragma unroll UNROLL
    for (index_t k = split * share + (group * 32 + lane) * V; k < end; k += GROUPS * STRIDE) {
      Vec<element_t, V> y[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        y[c] = Vec<element_t, V>{};
        if (ALL_N || n0 + at + c < SIZE_N) y[c] = load_vec<V>(from_b + k * B_ROW + (n0 + at + c) * B_COLUMN);
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        if (!ALL_M && r >= SIZE_M) break;
        Vec<element_t, V> x;
        if constexpr (A_ALONG_K && ALIGN_A >= V) {
          x = load_vec<V>(from_a + r * A_ROW + k * A_COLUMN);
        } else {
#pragma unroll
          for (int v = 0; v < V; ++v) x.v[v] = from_a[r * A_ROW + (k + v) * A_COLUMN];
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
          for (int v = 0; v < V; ++v) acc[r][c] += (acc_t)widen(x.v[v]) * (acc_t)widen(y[c].v[v]);
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const acc_t sum = warp_sum(acc[r][c]);
        if (lane == 0) sums[group][r][at + c] = sum;
      }
  } else {
    constexpr int V = ALIGN_B;
    const index_t share = (SIZE_K + SPLITS - 1) / SPLITS, n = n0 + lane * V;
    const index_t end = (split + 1) * share < SIZE_K ? (split + 1) * share : SIZE_K;
    acc_t acc[ROWS][V] = {};
    if (ALL_N || n < SIZE_N) {
#pragma unroll UNROLL
      for (index_t k = split * share + warp; k < end; k += GROUPS) {
        const Vec<element_t, V> y = load_vec<V>(from_b + k * B_ROW + n * B_COLUMN);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          if (!ALL_M && r >= SIZE_M) break;
          const acc_t x = widen(from_a[r * A_ROW + k * A_COLUMN]);
#pragma unroll
          for (int v = 0; v < V; ++v) acc[r][v] += x * (acc_t)widen(y.v[v]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int v = 0; v < V; ++v) sums[warp][r][lane * V + v] = acc[r][v];
  }
  launch_dependents();
  __syncthreads();
  for (int i = threadIdx.x; i < ROWS * SPREAD; i += THREADS) {
    const int r = i / SPREAD, c = i % SPREAD;
    if ((!ALL_M && r >= SIZE_M) || (!ALL_N && n0 + c >= SIZE_N)) continue;
    acc_t sum[1] = {sums[0][r][c]};
#pragma unroll
    for (int g = 1; g < GROUPS; ++g) sum[0] += sums[g][r][c];
    RESULT.template store<1>(sum, ((split * SIZE_BATCH + z) * SIZE_M + r) * SIZE_N + n0 + c);
  }
}
