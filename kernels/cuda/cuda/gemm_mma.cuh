// gemm.mma: a matrix product on tensor cores. A block computes BLOCK_M x BLOCK_N of one matrix of the batch, walking k in tiles
// of BLOCK_K that a pipeline of STAGES buffers copies to shared memory. GROUPS groups of WARPS_M x WARPS_N warps each take every
// GROUPS-th step of a tile; their sums meet in shared memory, from where rows leave through RESULT.

constexpr int WARPS = WARPS_M * WARPS_N;
constexpr int THREADS = 32 * WARPS * GROUPS;
constexpr int WARP_M = BLOCK_M / WARPS_M;
constexpr int WARP_N = BLOCK_N / WARPS_N;
constexpr int ELEMENT = sizeof(element_t);
constexpr int CHUNK = 16 / ELEMENT;        // elements in 16 bytes, the unit of copies and of the swizzle
constexpr int STEP = 32 / ELEMENT;         // k of one mma
constexpr int STEPS = BLOCK_K / STEP / GROUPS;
constexpr int TILES_M = WARP_M / 16;       // mma tiles of a warp
constexpr int TILES_N = WARP_N / 8;
#ifdef TF32X3
constexpr int SETS = 3;                    // fragments in registers: two, and the low halves
#else
constexpr int SETS = 2;
#endif
// As many blocks on a multiprocessor as the registers of the sums, two sets of fragments and the rest leave room for: left
// alone the compiler spills a few to squeeze in one more.
constexpr int REGISTERS = TILES_M * TILES_N * 4 + SETS * (TILES_M * 4 + TILES_N * 2) + 80;
constexpr int FIT = 65536 / (THREADS * REGISTERS), MOST = 1024 / THREADS;
constexpr int BLOCKS = FIT < 1 || MOST < 1 ? 1 : FIT < MOST ? FIT : MOST;
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0 && BLOCK_K % (STEP * GROUPS) == 0, "the warps do not tile the block");

// ROWS rows of COLUMNS contiguous elements in shared memory. Chunks trade places within 128 bytes so that what a warp reads at
// once lies in different banks: eight rows of one chunk (ldmatrix), or with WORDS four rows of eight words.
template <int ROWS, int COLUMNS, bool WORDS> struct Tile {
  static constexpr int BYTES = ROWS * COLUMNS * ELEMENT;
  static constexpr int CHUNKS = COLUMNS / CHUNK;
  static constexpr int PERIOD = CHUNKS >= 8 ? 1 : 8 / CHUNKS;
  static constexpr int MASK = (CHUNKS >= 8 ? 8 : CHUNKS) - 1;

  static DEVICE int offset(int row, int chunk) {
    int turn = row / PERIOD * (WORDS ? 2 : 1) & MASK;
    return (row * CHUNKS + (chunk ^ turn)) * 16;
  }
  static DEVICE uint32_t word(const unsigned char* tile, int row, int column) {
    return *reinterpret_cast<const uint32_t*>(tile + offset(row, column / 4) + column % 4 * 4);
  }

  // Copies from `from`, rows `stride` apart, of which every ALIGN elements are aligned. What is not below `rows` and `columns`
  // becomes zero; ALL_ROWS, ALL_COLUMNS: everything is.
  template <int ALIGN, bool ALL_ROWS, bool ALL_COLUMNS>
  static DEVICE void load(unsigned char* tile, const element_t* from, index_t stride, index_t rows, index_t columns) {
    static_assert(THREADS % CHUNKS == 0, "a row of chunks is wider than the block");
    constexpr int TOGETHER = THREADS / CHUNKS;
    const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const element_t* source = from + first * stride + chunk * CHUNK;
#pragma unroll
    for (int i = 0; i < (ROWS + TOGETHER - 1) / TOGETHER; ++i) {
      const int row = first + i * TOGETHER;
      if (ROWS % TOGETHER != 0 && row >= ROWS) break;
      const bool inside = ALL_ROWS || row < rows;
      const element_t* here = source + i * TOGETHER * stride;
      unsigned char* to = tile + offset(row, chunk);
      if constexpr (ALIGN >= CHUNK) {
        cp_async16(to, here, inside && (ALL_COLUMNS || chunk * CHUNK < columns));
      } else if constexpr (ALIGN * ELEMENT >= 4) {
#pragma unroll
        for (int j = 0; j < CHUNK; j += ALIGN)
          cp_async<ALIGN * ELEMENT>(to + j * ELEMENT, here + j, inside && (ALL_COLUMNS || chunk * CHUNK + j < columns));
      } else {
        Vec<element_t, CHUNK> x;
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) {
          x.v[j] = element_t{};
          if (inside && (ALL_COLUMNS || chunk * CHUNK + j < columns)) x.v[j] = here[j];
        }
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(x.v);
      }
    }
  }
};

#ifdef TF32
constexpr bool WORDS = true;
#else
constexpr bool WORDS = false;
#endif
// Operands lie as they do in memory: rows of k, or rows of m (of n).
template <bool ALONG_K, int EXTENT> struct OperandTile { typedef Tile<EXTENT, BLOCK_K, false> type; };
template <int EXTENT> struct OperandTile<false, EXTENT> { typedef Tile<BLOCK_K, EXTENT, WORDS> type; };
typedef OperandTile<A_ALONG_K, BLOCK_M>::type TileA;
typedef OperandTile<B_ALONG_K, BLOCK_N>::type TileB;
constexpr int STAGE = TileA::BYTES + TileB::BYTES;

DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef TF32
  mma_m16n8k8_tf32(d, a, b);
#else
  mma_m16n8k16<element_t>(d, a, b);
#endif
}

// The part of step `step` of a tile that one warp multiplies.
struct Fragments {
  uint32_t a[TILES_M][4];
  uint32_t b[TILES_N][2];

  DEVICE void load(const unsigned char* tile_a, const unsigned char* tile_b, int step, int warp_m, int warp_n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TILES_M; ++i) {
      const int m = warp_m * WARP_M + i * 16;
      if constexpr (A_ALONG_K) {
        ldmatrix_x4(a[i], tile_a + TileA::offset(m + lane % 16, step * 2 + lane / 16));
      } else if constexpr (!WORDS) {
        ldmatrix_x4_trans(a[i], tile_a + TileA::offset(step * STEP + lane % 8 + lane / 16 * 8, m / CHUNK + lane / 8 % 2));
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          a[i][j] = TileA::word(tile_a, step * STEP + lane % 4 + j / 2 * 4, m + lane / 4 + j % 2 * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < TILES_N; i += 2) {
      const int n = warp_n * WARP_N + i * 8;
      uint32_t r[4];
      if constexpr (B_ALONG_K) {
        ldmatrix_x4(r, tile_b + TileB::offset(n + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
      } else if constexpr (!WORDS) {
        ldmatrix_x4_trans(r, tile_b + TileB::offset(step * STEP + lane % 16, n / CHUNK + lane / 16));
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          r[j] = TileB::word(tile_b, step * STEP + lane % 4 + j % 2 * 4, n + lane / 4 + j / 2 * 8);
      }
      b[i][0] = r[0], b[i][1] = r[1], b[i + 1][0] = r[2], b[i + 1][1] = r[3];
    }
#if defined(TF32) && !defined(TF32X3)
    low();
#endif
  }

#ifdef TF32
  // Rounds to tf32, and gives what that takes away as tf32.
  DEVICE Fragments low() {
    Fragments rest;
#pragma unroll
    for (int i = 0; i < TILES_M; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) rest.a[i][j] = round_high(a[i][j]);
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) rest.b[i][j] = round_high(b[i][j]);
    return rest;
  }
  static DEVICE uint32_t round_high(uint32_t& x) {
    const float value = __uint_as_float(x);
    x = to_tf32(value);
    return to_tf32(value - __uint_as_float(x));
  }
#endif
};

// acc += a * b, of one step.
DEVICE void multiply_all(float (&acc)[TILES_M][TILES_N][4], const uint32_t (&a)[TILES_M][4], const uint32_t (&b)[TILES_N][2]) {
#pragma unroll
  for (int i = 0; i < TILES_M; ++i)
#pragma unroll
    for (int j = 0; j < TILES_N; ++j) multiply(acc[i][j], a[i], b[j]);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* a, const element_t* b RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32 % WARPS, group = threadIdx.x / (32 * WARPS);
  const int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;

  // Neighbouring blocks share rows of b's columns within bands of RASTER tiles of m, for L2.
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
  const element_t* from_a = a + z * A_BATCH + (A_ALONG_K ? m0 * A_ROW : m0);
  const element_t* from_b = b + z * B_BATCH + (B_ALONG_K ? n0 * B_COLUMN : n0);
  auto load = [&](unsigned char* to, index_t tile) {
    const index_t k = (first + tile) * BLOCK_K;
    if constexpr (A_ALONG_K) TileA::load<ALIGN_A, ALL_M, ALL_K>(to, from_a + k, A_ROW, SIZE_M - m0, SIZE_K - k);
    else TileA::load<ALIGN_A, ALL_K, ALL_M>(to, from_a + k * A_COLUMN, A_COLUMN, SIZE_K - k, SIZE_M - m0);
    to += TileA::BYTES;
    if constexpr (B_ALONG_K) TileB::load<ALIGN_B, ALL_N, ALL_K>(to, from_b + k, B_COLUMN, SIZE_N - n0, SIZE_K - k);
    else TileB::load<ALIGN_B, ALL_K, ALL_N>(to, from_b + k * B_ROW, B_ROW, SIZE_K - k, SIZE_N - n0);
  };

  dependency_wait();
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (s < count) load(shared + s * STAGE, s);
    cp_async_commit();
  }
  float acc[TILES_M][TILES_N][4] = {};
  Fragments fragments[2];
  int reading = 0, writing = STAGES - 1;
#pragma unroll 1
  for (index_t t = 0; t < count; ++t) {
    // One group was committed for each tile, so this one has arrived when STAGES - 2 are left; and every warp is done with
    // the tile before, whose buffer is written next.
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    const unsigned char* tile_a = shared + reading * STAGE;
    const unsigned char* tile_b = tile_a + TileA::BYTES;
    fragments[0].load(tile_a, tile_b, group, warp_m, warp_n);
    if (t + STAGES - 1 < count) load(shared + writing * STAGE, t + STAGES - 1);
    cp_async_commit();
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      if (s + 1 < STEPS) fragments[(s + 1) % 2].load(tile_a, tile_b, (s + 1) * GROUPS + group, warp_m, warp_n);
      Fragments& now = fragments[s % 2];
#ifdef TF32X3
      // The small products first.
      const Fragments low = now.low();
      multiply_all(acc, low.a, now.b);
      multiply_all(acc, now.a, low.b);
#endif
      multiply_all(acc, now.a, now.b);
    }
    reading = reading + 1 == STAGES ? 0 : reading + 1;
    writing = writing + 1 == STAGES ? 0 : writing + 1;
  }
  cp_async_wait<0>();
  launch_dependents();

  // PASS rows of mma tiles at a time go through shared memory, as many as the pipeline's buffers hold.
  constexpr int PITCH = BLOCK_N + 8, SLAB = WARPS_M * PASS * 16;
  float* sums = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int pass = 0; pass < TILES_M / PASS; ++pass) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PASS; ++i)
#pragma unroll
      for (int j = 0; j < TILES_N; ++j) {
        const int row = group * SLAB + (warp_m * PASS + i) * 16 + lane / 4, column = warp_n * WARP_N + j * 8 + lane % 4 * 2;
        const float(&d)[4] = acc[pass * PASS + i][j];
        *reinterpret_cast<float2*>(sums + row * PITCH + column) = make_float2(d[0], d[1]);
        *reinterpret_cast<float2*>(sums + (row + 8) * PITCH + column) = make_float2(d[2], d[3]);
      }
    __syncthreads();
    constexpr int ACROSS = BLOCK_N / VECTOR;
#pragma unroll 4
    for (int i = threadIdx.x; i < SLAB * ACROSS; i += THREADS) {
      const int row = i / ACROSS, column = i % ACROSS * VECTOR;
      const index_t m = m0 + row / (PASS * 16) * WARP_M + pass * PASS * 16 + row % (PASS * 16), n = n0 + column;
      if ((!ALL_M && m >= SIZE_M) || (!ALL_N && n >= SIZE_N)) continue;
      Vec<float, VECTOR> sum = load_vec<VECTOR>(sums + row * PITCH + column);
#pragma unroll
      for (int g = 1; g < GROUPS; ++g) {
        const Vec<float, VECTOR> more = load_vec<VECTOR>(sums + (g * SLAB + row) * PITCH + column);
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) sum.v[j] += more.v[j];
      }
      RESULT.template store<VECTOR>(sum.v, ((split * SIZE_BATCH + z) * SIZE_M + m) * SIZE_N + n);
    }
  }
}
