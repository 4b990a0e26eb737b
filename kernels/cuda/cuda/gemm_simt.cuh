// gemm.simt: a matrix product on the ordinary cores, for any element type and any strides. A block computes BLOCK_M x BLOCK_N, each
// thread THREAD_M x THREAD_N of it in quads of rows and columns; tiles of BLOCK_K go through registers into two buffers in
// turn, widened to acc_t and with k as the outer dimension.

constexpr int ACROSS = BLOCK_N / THREAD_N;
constexpr int THREADS = BLOCK_M / THREAD_M * ACROSS;
// Blocks on a multiprocessor, that is registers of a thread: left alone the compiler spills a few to squeeze in one more. An
// 8 x 8 tile fits in 128 registers only where nothing is checked.
constexpr bool CHECKED = !(ALL_M && ALL_N && ALL_K && ALIGN_A == 4 && ALIGN_B == 4);
constexpr bool LARGE = THREAD_M * THREAD_N * sizeof(acc_t) >= 256;
constexpr int RESIDENT = sizeof(acc_t) == 8 ? 256 : LARGE && (CHECKED || BLOCK_K > 8 || THREADS < 256) ? 384 : 512;
constexpr int BLOCKS = THREADS > RESIDENT ? 1 : RESIDENT / THREADS;
static_assert(THREAD_M % 4 == 0 && THREAD_N % 4 == 0, "threads hold quads");

// BLOCK_K x EXTENT of an operand. V elements are contiguous and aligned, along k or along the other dimension.
template <int EXTENT, bool ALONG_K, int V, bool ALL_K, bool ALL> struct Operand {
  static constexpr int PITCH = EXTENT + 16 / sizeof(acc_t);
  static constexpr int VECTORS = BLOCK_K * EXTENT / V;
  static constexpr int EACH = (VECTORS + THREADS - 1) / THREADS;
  Vec<element_t, V> held[EACH];

  // `k` and `limit` are what is left of k and of the other dimension.
  DEVICE void load(const element_t* from, index_t stride_k, index_t stride, index_t k, index_t limit) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int id = threadIdx.x + i * THREADS;
      const int at_k = ALONG_K ? id % (BLOCK_K / V) * V : id / (EXTENT / V), at = ALONG_K ? id / (BLOCK_K / V) : id % (EXTENT / V) * V;
      held[i] = Vec<element_t, V>{};
      if ((VECTORS % THREADS == 0 || id < VECTORS) && (ALL_K || at_k < k) && (ALL || at < limit))
        held[i] = load_vec<V>(from + at_k * stride_k + at * stride);
    }
  }
  DEVICE void store(acc_t* tile) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int id = threadIdx.x + i * THREADS;
      if (VECTORS % THREADS != 0 && id >= VECTORS) break;
      if constexpr (ALONG_K) {
        const int at_k = id % (BLOCK_K / V) * V, at = id / (BLOCK_K / V);
#pragma unroll
        for (int j = 0; j < V; ++j) tile[(at_k + j) * PITCH + at] = widen(held[i].v[j]);
      } else {
        Vec<acc_t, V> wide;
#pragma unroll
        for (int j = 0; j < V; ++j) wide.v[j] = widen(held[i].v[j]);
        store_vec(tile + id / (EXTENT / V) * PITCH + id % (EXTENT / V) * V, wide);
      }
    }
  }
};
typedef Operand<BLOCK_M, A_ALONG_K, ALIGN_A, ALL_K, ALL_M> OperandA;
typedef Operand<BLOCK_N, B_ALONG_K, ALIGN_B, ALL_K, ALL_N> OperandB;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* a, const element_t* b RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ __align__(16) acc_t tiles_a[2][BLOCK_K * OperandA::PITCH];
  __shared__ __align__(16) acc_t tiles_b[2][BLOCK_K * OperandB::PITCH];
  constexpr int RASTER = 8;
  const index_t tiles_m = (SIZE_M + BLOCK_M - 1) / BLOCK_M, tiles_n = (SIZE_N + BLOCK_N - 1) / BLOCK_N;
  index_t block = blockIdx.x, z = blockIdx.z;
  if (FOLD) z = block / (tiles_m * tiles_n), block -= z * (tiles_m * tiles_n);
  const int split = SPLITS > 1 ? z % SPLITS : 0;
  z /= SPLITS;
  const index_t band = tiles_m <= RASTER ? 0 : block / (RASTER * tiles_n) * RASTER;
  const index_t height = tiles_m <= RASTER ? tiles_m : tiles_m - band < RASTER ? tiles_m - band : RASTER;
  block -= band * tiles_n;
  const index_t m0 = (band + block % height) * BLOCK_M, n0 = block / height * BLOCK_N;

  const index_t tiles_k = (SIZE_K + BLOCK_K - 1) / BLOCK_K, share = (tiles_k + SPLITS - 1) / SPLITS;
  const index_t first = split * share, count = tiles_k - first < share ? tiles_k - first : share;
  const element_t* from_a = a + z * A_BATCH + m0 * A_ROW;
  const element_t* from_b = b + z * B_BATCH + n0 * B_COLUMN;
  const int row = threadIdx.x / ACROSS * 4, column = threadIdx.x % ACROSS * 4;
  acc_t acc[THREAD_M][THREAD_N] = {};
  OperandA operand_a;
  OperandB operand_b;
  auto load = [&](index_t tile) {
    const index_t k = (first + tile) * BLOCK_K;
    operand_a.load(from_a + k * A_COLUMN, A_COLUMN, A_ROW, SIZE_K - k, SIZE_M - m0);
    operand_b.load(from_b + k * B_ROW, B_ROW, B_COLUMN, SIZE_K - k, SIZE_N - n0);
  };

  dependency_wait();
  if (count > 0) {
    load(0);
    operand_a.store(tiles_a[0]);
    operand_b.store(tiles_b[0]);
  }
  __syncthreads();
#pragma unroll 1
  for (index_t t = 0; t < count; ++t) {
    if (t + 1 < count) load(t + 1);
    const acc_t* tile_a = tiles_a[t % 2];
    const acc_t* tile_b = tiles_b[t % 2];
#pragma unroll
    for (int k = 0; k < BLOCK_K; ++k) {
      Vec<acc_t, 4> x[THREAD_M / 4], y[THREAD_N / 4];
#pragma unroll
      for (int i = 0; i < THREAD_M / 4; ++i) x[i] = load_vec<4>(tile_a + k * OperandA::PITCH + i * (BLOCK_M / (THREAD_M / 4)) + row);
#pragma unroll
      for (int j = 0; j < THREAD_N / 4; ++j) y[j] = load_vec<4>(tile_b + k * OperandB::PITCH + j * (BLOCK_N / (THREAD_N / 4)) + column);
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) acc[i][j] += x[i / 4].v[i % 4] * y[j / 4].v[j % 4];
    }
    if (t + 1 < count) {
      operand_a.store(tiles_a[(t + 1) % 2]);
      operand_b.store(tiles_b[(t + 1) % 2]);
    }
    __syncthreads();
  }
  launch_dependents();

#pragma unroll
  for (int i = 0; i < THREAD_M; ++i) {
    const index_t m = m0 + i / 4 * (BLOCK_M / (THREAD_M / 4)) + row + i % 4;
#pragma unroll
    for (int j = 0; j < THREAD_N; j += VECTOR) {
      const index_t n = n0 + j / 4 * (BLOCK_N / (THREAD_N / 4)) + column + j % 4;
      if ((!ALL_M && m >= SIZE_M) || (!ALL_N && n >= SIZE_N)) continue;
      acc_t sum[VECTOR];
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) sum[v] = acc[i][j + v];
      RESULT.template store<VECTOR>(sum, ((split * SIZE_BATCH + z) * SIZE_M + m) * SIZE_N + n);
    }
  }
}
