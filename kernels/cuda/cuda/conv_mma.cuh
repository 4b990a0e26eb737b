// conv.mma: convolution over channels-last tensors as an implicit matrix product on tensor cores (mma.sync).
//   rows    = output pixels (image, y, x), BM to a block
//   columns = filters of one group, BN to a block
//   k       = taps and channels, in steps of 32 bytes (16 halves or 8 floats: the depth of one mma)
// A block's warps form WARP_GROUPS groups of WARPS_M x WARPS_N; group g takes every WARP_GROUPS-th step, and the partial
// sums meet in shared memory. SPLIT blocks may share a tile's k: through the cluster's shared memory (CLUSTER) or
// through the workspace, which conv_mma_reduce.cuh then adds up.
//
// Weights come packed as [group][column tile][step][BN / 16][lane][16 bytes]: the four mma operand registers that a lane
// needs for 16 filters, so a tile is one run of memory and a fragment one 16-byte read without bank conflicts.
// Activations: a tile row is 2 * TILE_STEPS chunks of 16 bytes, exclusive-ored with the row so that ldmatrix is free of
// conflicts. Two ways to fill it:
//   GATHER == 0  k = (tap, channel), each tap's channels padded to whole steps; a chunk is one cp.async of 16 bytes.
//   GATHER == 1  k = (channel, tap) as in the weights, for channels that fill no 16 bytes (first layers): element loads
//                at offsets known at compile time, all of k resident up to STAGES tiles.

// SCALED multiplies pixels by a factor of their image and channel once they are operands in registers, rounded as they are in
// memory: SPAN images at most have pixels in a block, and their factors lie behind the tiles.

constexpr int WARPS = WARPS_M * WARPS_N;
constexpr int THREADS = 32 * WARPS * WARP_GROUPS;
constexpr int CHUNK = 16 / sizeof(element_t);           // elements of 16 bytes
constexpr int STEP = 2 * CHUNK;                         // elements of k in one mma
constexpr int TAP_STEPS = (CG + STEP - 1) / STEP;
constexpr int STEPS = GATHER ? (TAPS * CG + STEP - 1) / STEP : TAPS * TAP_STEPS;
constexpr int TILES = (STEPS + TILE_STEPS - 1) / TILE_STEPS;
constexpr int CHUNKS = 2 * TILE_STEPS;                  // 16-byte chunks in a tile row
constexpr int ROW_BYTES = 16 * CHUNKS;
constexpr int A_BYTES = BM * ROW_BYTES;
constexpr int B_BYTES = BN * ROW_BYTES;
constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
constexpr int MI = WM / 16, NI = WN / 8;
constexpr int COLUMN_TILES = (NG + BN - 1) / BN;

static_assert(BM % (16 * WARPS_M) == 0 && BN % (16 * WARPS_N) == 0, "a warp's tile is whole 16x16 blocks");
static_assert(TILE_STEPS == 2 || TILE_STEPS == 4, "rows of 64 or 128 bytes");
static_assert(TILE_STEPS % WARP_GROUPS == 0, "every warp group has its steps in each tile");
static_assert(!GATHER || !SCALED, "what is scaled is copied in 16-byte chunks");
static_assert(!GATHER || (SPLIT == 1 && THREADS % BM == 0 && CHUNKS % (THREADS / BM) == 0), "whole chunks for each part");

// Byte offset of 16-byte chunk `chunk` of tile row `row`: any eight consecutive rows cover all 32 banks.
DEVICE int swizzle(int row, int chunk) {
  return row * ROW_BYTES + ((TILE_STEPS == 4 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) << 4);
}

DEVICE bool inside(unsigned mask, int r, int s) {
  return DENSE_MASK ? mask >> (r * KW + s) & 1 : mask >> r & mask >> (16 + s) & 1;
}

// The weights of one tile: a straight copy.
DEVICE void load_weights(unsigned char* to, const unsigned char* from, int tile) {
#pragma unroll
  for (int q = 0; q < (B_BYTES / 16 + THREADS - 1) / THREADS; ++q) {
    const int chunk = q * THREADS + threadIdx.x;
    if (B_BYTES / 16 % THREADS == 0 || chunk < B_BYTES / 16) {
      const bool valid = STEPS % TILE_STEPS == 0 || tile * TILE_STEPS + chunk / (2 * BN) < STEPS;
      cp_async16(to + chunk * 16, from + (long long)tile * B_BYTES + chunk * 16, valid);
    }
  }
}

// GATHER == 0: each thread fills the same chunk of A_ROWS rows in every tile.
constexpr int ROWS_APART = THREADS / CHUNKS;
constexpr int A_ROWS = (BM + ROWS_APART - 1) / ROWS_APART;

DEVICE void load_pixels(unsigned char* to, const element_t* x, const Window (&windows)[A_ROWS],
                        int tile SYMBOL_PARAMS) {
  const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
  const int step = tile * TILE_STEPS + chunk / 2;
  const int tap = STEPS % TILE_STEPS == 0 || step < STEPS ? step / TAP_STEPS : 0;
  const int channel = step % TAP_STEPS * STEP + chunk % 2 * CHUNK;
  const int r = tap / KW, s = tap % KW;
  const bool valid = (STEPS % TILE_STEPS == 0 || step < STEPS) && (CG % STEP == 0 || channel < CG);
  const index_t delta = (r * DH * IW + s * DW) * CHANNELS + channel;
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i)
    if (BM % ROWS_APART == 0 || row + i * ROWS_APART < BM)
      cp_async16(to + swizzle(row + i * ROWS_APART, chunk), x + (windows[i].offset + delta),
                 valid && inside(windows[i].mask, r, s));
}

// GATHER == 1: PARTS threads share a row; thread part p fills chunks p, p + PARTS, ... of each tile.
constexpr int PARTS = GATHER ? THREADS / BM : 1;
constexpr int TOGETHER = TAPS > 1 ? 1 : CG % 4 == 0 ? 4 : CG % 2 == 0 ? 2 : 1;   // contiguous, aligned channels

template <int PART>
DEVICE void gather_part(unsigned char* to, const element_t* x, Window window, int row, int tile SYMBOL_PARAMS) {
#pragma unroll
  for (int q = 0; q < CHUNKS / PARTS; ++q) {
    const int chunk = q * PARTS + PART;
    Vec<element_t, CHUNK> values;
#pragma unroll
    for (int e = 0; e < CHUNK; e += TOGETHER) {
      const int k = tile * TILE_STEPS * STEP + chunk * CHUNK + e;
      const int channel = k / TAPS, tap = k % TAPS;
      Vec<element_t, TOGETHER> some;
#pragma unroll
      for (int j = 0; j < TOGETHER; ++j) some.v[j] = element_t{};
      if (k < TAPS * CG && inside(window.mask, tap / KW, tap % KW))
        some = load_vec<TOGETHER>(x + (window.offset + (tap / KW * DH * IW + tap % KW * DW) * CHANNELS + channel));
#pragma unroll
      for (int j = 0; j < TOGETHER; ++j) values.v[e + j] = some.v[j];
    }
    store_vec<CHUNK>(reinterpret_cast<element_t*>(to + swizzle(row, chunk)), values);
  }
}

template <int PART = 0>
DEVICE void gather_pixels(unsigned char* to, const element_t* x, Window window, int tile SYMBOL_PARAMS) {
  const int row = threadIdx.x % BM;
  if constexpr (PART + 1 == PARTS) {
    gather_part<PART>(to, x, window, row, tile SYMBOL_NAMES);
  } else {
    if (threadIdx.x / BM == PART)
      gather_part<PART>(to, x, window, row, tile SYMBOL_NAMES);
    else
      gather_pixels<PART + 1>(to, x, window, tile SYMBOL_NAMES);
  }
}

#if TF32
// Splits f32 registers into tf32 and, for TF32X3, what is left of them as tf32.
DEVICE uint32_t round_high(uint32_t& x) {
  const float value = __uint_as_float(x);
  x = to_tf32(value);
  return TF32X3 ? to_tf32(value - __uint_as_float(x)) : 0;
}
#endif

DEVICE void multiply_step(float (&acc)[MI][NI][4], const uint32_t (&a)[MI][4], const uint4 (&b)[NI / 2]) {
#pragma unroll
  for (int j = 0; j < NI / 2; ++j) {
#pragma unroll
    for (int i = 0; i < MI; ++i) {
#if TF32
      mma_m16n8k8_tf32(acc[i][2 * j], a[i], {b[j].x, b[j].y});
      mma_m16n8k8_tf32(acc[i][2 * j + 1], a[i], {b[j].z, b[j].w});
#else
      mma_m16n8k16<element_t>(acc[i][2 * j], a[i], {b[j].x, b[j].y});
      mma_m16n8k16<element_t>(acc[i][2 * j + 1], a[i], {b[j].z, b[j].w});
#endif
    }
  }
}

#if SCALED
constexpr int SCALES = TAP_STEPS * STEP;                // factors of one image, zeros behind them up to whole steps

DEVICE void load_scales(element_t* to, const element_t* scales, index_t first SYMBOL_PARAMS) {
  for (int i = threadIdx.x; i < SPAN * (SCALES / CHUNK); i += THREADS) {
    const int image = i / (SCALES / CHUNK), channel = i % (SCALES / CHUNK) * CHUNK;
    cp_async16(to + image * SCALES + channel, scales + (first + image) * CHANNELS + channel, first + image < N && channel < CG);
  }
}

DEVICE uint32_t scale(uint32_t x, uint32_t s, float) { return __float_as_uint(__uint_as_float(x) * __uint_as_float(s)); }
DEVICE uint32_t scale(uint32_t x, uint32_t s, f16) {
  uint32_t y;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(s));
  return y;
}
DEVICE uint32_t scale(uint32_t x, uint32_t s, bf16) {
  uint32_t y = 0;
#if __CUDA_ARCH__ >= 800
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(s), "r"(0x80008000u));
#endif
  return y;
}

// A lane's operand registers of rows r and r + 8: elements at its quarter of each chunk. `of` are the factors of the images
// of those rows.
DEVICE void scale_rows(uint32_t (&a)[4], const element_t* const (&of)[2], int channel) {
  channel += threadIdx.x % 4 * (CHUNK / 4);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const uint32_t s = *reinterpret_cast<const uint32_t*>(of[SPAN > 1 ? e % 2 : 0] + channel + e / 2 * CHUNK);
    a[e] = scale(a[e], s, element_t{});
  }
}
#endif

// One tile's steps of this warp group. `a` and `b` are the tile's operands in shared memory.
DEVICE void multiply(float (&acc)[MI][NI][4], const unsigned char* a, const unsigned char* b, int group, int warp_m,
                     int warp_n
#if SCALED
                     , const element_t* const (&of)[MI][2], int tile
#endif
                     ) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int q = 0; q < TILE_STEPS / WARP_GROUPS; ++q) {
    const int step = q * WARP_GROUPS + group;
    uint32_t fa[MI][4];
    uint4 fb[NI / 2];
#if TF32X3
    uint32_t low_a[MI][4];
    uint4 low_b[NI / 2];
#endif
#pragma unroll
    for (int i = 0; i < MI; ++i) {
      ldmatrix_x4(fa[i], a + (warp_m * WM + i * 16) * ROW_BYTES + swizzle(lane & 15, step * 2 + (lane >> 4)));
#if SCALED
      scale_rows(fa[i], of[i], (tile * TILE_STEPS + step) % TAP_STEPS * STEP);
#endif
#if TF32X3
#pragma unroll
      for (int e = 0; e < 4; ++e) low_a[i][e] = round_high(fa[i][e]);
#elif TF32
#pragma unroll
      for (int e = 0; e < 4; ++e) round_high(fa[i][e]);
#endif
    }
#pragma unroll
    for (int j = 0; j < NI / 2; ++j) {
      fb[j] = *reinterpret_cast<const uint4*>(b + ((step * (BN / 16) + warp_n * (WN / 16) + j) * 32 + lane) * 16);
#if TF32X3
      low_b[j] = make_uint4(round_high(fb[j].x), round_high(fb[j].y), round_high(fb[j].z), round_high(fb[j].w));
#elif TF32
      round_high(fb[j].x), round_high(fb[j].y), round_high(fb[j].z), round_high(fb[j].w);
#endif
    }
#if TF32X3
    // The small products first.
    multiply_step(acc, low_a, fb);
    multiply_step(acc, fa, low_b);
#endif
    multiply_step(acc, fa, fb);
  }
}

#if CLUSTER
typedef ClusterSums<BM, BN, SPLIT, WARP_GROUPS> Sums;
#else
typedef BlockSums<BM, BN, WARP_GROUPS> Sums;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* x, const unsigned char* w
#if SCALED
                , const element_t* scales
#endif
                EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned char* const tiles_a = shared;
  unsigned char* const tiles_b = shared + STAGES * A_BYTES;
  const int thread = threadIdx.x, warp = thread / 32 % WARPS, group = thread / 32 / WARPS;
  const int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
  const int column_tile = blockIdx.x % COLUMN_TILES;
  const index_t row0 = (index_t)(blockIdx.x / COLUMN_TILES) * BM;
  const int split = SPLIT > 1 ? blockIdx.y : 0;
  const int first = split * TILES / SPLIT;
  const int count = TILES % SPLIT == 0 ? TILES / SPLIT : (split + 1) * TILES / SPLIT - first;
  const int filter_group = GROUPS > 1 ? blockIdx.z : 0;
  const int rows = (int)min(M - row0, (index_t)BM);
#if CLUSTER
  // The other blocks' sums, behind what this block's lie over.
  constexpr int TILE_BYTES = STAGES * (A_BYTES + B_BYTES), OWN_BYTES = WARP_GROUPS * Sums::Own::PART * 4;
  unsigned char* const parts = shared + (TILE_BYTES > OWN_BYTES ? TILE_BYTES : OWN_BYTES);
  const Sums sums = {{rows}, parts, shared_address(parts + Sums::BYTES), split, 0, 1};
  if (thread == 0) {
    sums.begin();
    mbarrier_init_done();
    sums.expect();
  }
  __syncwarp();
  cluster_arrive_relaxed();
#else
  const Sums sums = {rows};
#endif

  x += filter_group * CG;
  w += (long long)(filter_group * COLUMN_TILES + column_tile) * STEPS * (BN * 32);
  float acc[MI][NI][4] = {};
  const Epilogue epilogue = EPILOGUE;
  Finish<Sums, BN, WIDTH, THREADS, AHEAD> ending;

#if GATHER
  for (int slab = 0; slab < TILES; slab += STAGES) {
    if (slab > 0) __syncthreads();
#pragma unroll
    for (int t = 0; t < STAGES; ++t)
      if (slab + t < TILES) load_weights(tiles_b + t * B_BYTES, w, slab + t);
    cp_async_commit();
    if (slab == 0) {
      dependency_wait();
      ending.ask(0, sums, row0, column_tile * BN, NG, filter_group * NG, epilogue);
    }
    const Window window = locate(row0 + thread % BM SYMBOL_NAMES);
#pragma unroll
    for (int t = 0; t < STAGES; ++t)
      if (slab + t < TILES) gather_pixels(tiles_a + t * A_BYTES, x, window, slab + t SYMBOL_NAMES);
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < STAGES; ++t)
      if (slab + t < TILES) multiply(acc, tiles_a + t * A_BYTES, tiles_b + t * B_BYTES, group, warp_m, warp_n);
  }
  launch_dependents();
#else
  // The weights depend on nothing: request the first stages' before waiting for the kernel that writes the pixels.
  // They belong to the first committed group, which is the one waited for first.
#pragma unroll
  for (int t = 0; t < STAGES - 1; ++t)
    if (t < count) load_weights(tiles_b + t * B_BYTES, w, first + t);
  if (EARLY) launch_dependents();
  Window windows[A_ROWS];
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i) windows[i] = locate(row0 + thread / CHUNKS + i * ROWS_APART SYMBOL_NAMES);
#if SCALED
  element_t* const factors = reinterpret_cast<element_t*>(shared + FACTORS_AT);
  const index_t image0 = row0 / (OH * OW);
  const element_t* of[MI][2];
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const index_t m = min(row0 + warp_m * WM + i * 16 + e * 8 + thread % 32 / 4, M - 1);
      of[i][e] = factors + (SPAN > 1 ? m / (OH * OW) - image0 : 0) * SCALES;
    }
#endif
  dependency_wait();
#if SCALED
  load_scales(factors, scales + filter_group * CG, image0 SYMBOL_NAMES);   // in the first group too
#endif
#pragma unroll
  for (int t = 0; t < STAGES - 1; ++t) {
    if (t < count) load_pixels(tiles_a + t * A_BYTES, x, windows, first + t SYMBOL_NAMES);
    cp_async_commit();
  }
  ending.ask(0, sums, row0, column_tile * BN, NG, filter_group * NG, epilogue);
  // Tile i is in slot i % STAGES. Before its wait STAGES - 1 + i groups are committed and i + 1 must have landed.
  constexpr int MOST = (TILES + SPLIT - 1) / SPLIT;
  constexpr int ROUNDS = (MOST + STAGES - 1) / STAGES;
#pragma unroll(ROUNDS * STAGES <= 12 ? ROUNDS : 1)
  for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
    for (int slot = 0; slot < STAGES; ++slot) {
      const int i = round * STAGES + slot;
      if (i < count) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const int next = i + STAGES - 1;   // into the slot that was multiplied before the barrier
        const int into = (slot + STAGES - 1) % STAGES;
        if (next < count) {
          load_weights(tiles_b + into * B_BYTES, w, first + next);
          load_pixels(tiles_a + into * A_BYTES, x, windows, first + next SYMBOL_NAMES);
        }
        cp_async_commit();
#if SCALED
        multiply(acc, tiles_a + slot * A_BYTES, tiles_b + slot * B_BYTES, group, warp_m, warp_n, of, first + i);
#else
        multiply(acc, tiles_a + slot * A_BYTES, tiles_b + slot * B_BYTES, group, warp_m, warp_n);
#endif
      }
    }
  }
  if (!EARLY) launch_dependents();
#endif

  // Over the tiles, which nobody reads any more.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < MI; ++i) {
#pragma unroll
    for (int j = 0; j < NI; ++j) sums.put(shared, group, warp_m * WM + i * 16, warp_n * WN + j * 8, acc[i][j]);
  }
#if CLUSTER
  fence_async_shared();
  cluster_wait();
  __syncthreads();
  sums.send(shared, same_for_warp(thread / 32), THREADS / 32);
#endif
  ending.finish(sums, shared, row0, column_tile * BN, NG, filter_group * NG, epilogue);
}
