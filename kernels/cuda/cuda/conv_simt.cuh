// conv.simt: convolution as an implicit matrix product on ordinary cores, exact in the class of the elements.
//   rows = output pixels (BM to a block), columns = filters of one group (BN), k = (tap, channel) in tiles of BK.
// Weights come packed as [group][tap][channel][filters padded to whole tiles]. With at least BK channels each tap's are
// padded to whole tiles, so that a tile has one tap; fewer are folded (FOLD) and every element finds its own tap.
// Each thread owns TM x TN sums in 4x4 blocks spread over the tile, so that shared memory is read 16 bytes at a time.

constexpr bool FOLD = CG < BK;
constexpr int TAPS = KD * KH * KW;
constexpr int TAP_TILES = (CG + BK - 1) / BK;
constexpr int DEPTH = FOLD ? TAPS * CG : TAPS * TAP_TILES * BK;
constexpr int TILES = (DEPTH + BK - 1) / BK;
constexpr int COLUMN_TILES = (NG + BN - 1) / BN;
constexpr int PADDED = COLUMN_TILES * BN;
constexpr int TX = BN / TN, TY = BM / TM, THREADS = TX * TY;
constexpr int A_PITCH = BM + 4;
constexpr int A_LOADS = BM * BK / THREADS, B_LOADS = BK * BN / THREADS;
// Lanes run along what is contiguous in x: channels (k) or pixels (rows). A thread has that many rows.
constexpr int ROWS = LAST ? A_LOADS : 1;
static_assert(THREADS % BK == 0 && THREADS % BM == 0 && THREADS % BN == 0, "each thread keeps its k, its row or its column");

struct Window {
  index_t offset;
  int z, y, x;
};

DEVICE Window locate(index_t m SYMBOL_PARAMS) {
  Window window;
  const index_t image = m / (OD * OH * OW), pixel = m % (OD * OH * OW);
  window.z = pixel / (OH * OW) * SD - PD;
  window.y = pixel / OW % OH * SH - PH;
  window.x = pixel % OW * SW - PW;
  // Far outside, so that no tap of a row past the end is inside.
  if (m >= M) window.z = window.y = window.x = -(1 << 28);
  window.offset = image * (CHANNELS * ID * IH * IW) +
                  ((window.z * IH + window.y) * IW + window.x) * (LAST ? CHANNELS : 1);
  return window;
}

DEVICE element_t load_pixel(const element_t* x, const Window& window, int tap, int channel SYMBOL_PARAMS) {
  const int a = tap / (KH * KW), r = tap / KW % KH, s = tap % KW;
  const int z = window.z + a * DD, y = window.y + r * DH, i = window.x + s * DW;
  const bool inside = (unsigned)z < (unsigned)ID && (unsigned)y < (unsigned)IH && (unsigned)i < (unsigned)IW;
  const index_t delta = ((a * DD * IH + r * DH) * IW + s * DW) * (LAST ? CHANNELS : 1);
  const index_t at = window.offset + delta + channel * (LAST ? 1 : ID * IH * IW);
  return inside && channel < CG ? x[at] : element_t{};
}

extern "C" __global__ void __launch_bounds__(BOUNDS)
    KERNEL_NAME(const element_t* x, const element_t* w
#if SPLIT > 1
                , acc_t* partial SYMBOL_PARAMS PREFETCH_PARAMS) {
#else
                EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
#endif
  PREFETCH(threadIdx.x == 0);
  __shared__ __align__(16) acc_t shared_a[2][BK][A_PITCH];
  __shared__ __align__(16) acc_t shared_b[2][BK][BN];
  const int thread = threadIdx.x;
  const int column_tile = blockIdx.x % COLUMN_TILES;
  const index_t row0 = (index_t)(blockIdx.x / COLUMN_TILES) * BM;
  const int split = SPLIT > 1 ? blockIdx.y : 0;
  const int first = split * TILES / SPLIT, end = (split + 1) * TILES / SPLIT;
  const int group = GROUPS > 1 ? blockIdx.z : 0;
  x += (index_t)group * CG * (LAST ? 1 : ID * IH * IW);
  w += (long long)group * DEPTH * PADDED + column_tile * BN;

  Window windows[ROWS];
#pragma unroll
  for (int q = 0; q < ROWS; ++q)
    windows[q] = locate(row0 + (LAST ? thread / BK + q * (THREADS / BK) : thread % BM) SYMBOL_NAMES);
  dependency_wait();

  element_t next_a[A_LOADS], next_b[B_LOADS];
  auto fetch = [&](int tile) {
    const int tap = tile / TAP_TILES, channel0 = tile % TAP_TILES * BK;
#pragma unroll
    for (int q = 0; q < A_LOADS; ++q) {
      const int k = LAST ? thread % BK : thread / BM + q * (THREADS / BM);
      const Window& window = windows[LAST ? q : 0];
      if constexpr (FOLD) {
        const int at = tile * BK + k;
        next_a[q] = at < DEPTH ? load_pixel(x, window, at / CG, at % CG SYMBOL_NAMES) : element_t{};
      } else {
        next_a[q] = load_pixel(x, window, tap, channel0 + k SYMBOL_NAMES);
      }
    }
#pragma unroll
    for (int q = 0; q < B_LOADS; ++q) {
      const int k = tile * BK + thread / BN + q * (THREADS / BN);
      next_b[q] = DEPTH % BK == 0 || k < DEPTH ? w[(long long)k * PADDED + thread % BN] : element_t{};
    }
  };
  auto stage = [&](int slot) {
#pragma unroll
    for (int q = 0; q < A_LOADS; ++q) {
      if (LAST)
        shared_a[slot][thread % BK][thread / BK + q * (THREADS / BK)] = widen(next_a[q]);
      else
        shared_a[slot][thread / BM + q * (THREADS / BM)][thread % BM] = widen(next_a[q]);
    }
#pragma unroll
    for (int q = 0; q < B_LOADS; ++q) shared_b[slot][thread / BN + q * (THREADS / BN)][thread % BN] = widen(next_b[q]);
  };

  const int tx = LAST ? thread % TX : thread / TY, ty = LAST ? thread / TX : thread % TY;
  acc_t acc[TM][TN] = {};
  fetch(first);
  stage(0);
  __syncthreads();
  for (int tile = first; tile < end; ++tile) {
    const int slot = (tile - first) & 1;
    if (tile + 1 < end) fetch(tile + 1);
#pragma unroll
    for (int k = 0; k < BK; ++k) {
      acc_t a[TM], b[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) {
        const auto v = load_vec<4>(&shared_a[slot][k][i / 4 * (TY * 4) + ty * 4]);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i + e] = v.v[e];
      }
#pragma unroll
      for (int j = 0; j < TN; j += 4) {
        const auto v = load_vec<4>(&shared_b[slot][k][j / 4 * (TX * 4) + tx * 4]);
#pragma unroll
        for (int e = 0; e < 4; ++e) b[j + e] = v.v[e];
      }
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) acc[i][j] += a[i] * b[j];
    }
    if (tile + 1 < end) stage(slot ^ 1);
    __syncthreads();
  }
  launch_dependents();

  // Rows of VEC elements along what is contiguous in the output.
#pragma unroll
  for (int i = 0; i < TM; i += LAST ? 1 : VEC) {
    const index_t m = row0 + i / 4 * (TY * 4) + ty * 4 + i % 4;
#pragma unroll
    for (int j = 0; j < TN; j += LAST ? VEC : 1) {
      const int n = column_tile * BN + j / 4 * (TX * 4) + tx * 4 + j % 4;
      if (m < M && n < NG) {
        acc_t sum[VEC];
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] = LAST ? acc[i][j + (LAST ? e : 0)] : acc[i + (LAST ? 0 : e)][j];
        const int filter = group * NG + n;
        const index_t pixels = OD * OH * OW;
        const index_t to = LAST ? m * FILTERS + filter : (m / pixels * FILTERS + filter) * pixels + m % pixels;
#if SPLIT > 1
        Vec<acc_t, VEC> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) v.v[e] = sum[e];
        store_vec<VEC>(partial + (long long)split * M * FILTERS + to, v);
#else
        EPILOGUE.store<VEC>(sum, to);
#endif
      }
    }
  }
}
