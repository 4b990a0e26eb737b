// What attention.wgmma, attention.heads and attention.whole have in common: tiles of queries, keys and values in shared
// memory as Hopper's tensor cores want them, and the softmax of a tile of scores in registers. SCALE and the mask are in units of
// log2(e).
// A tile lies in panels of 64 columns, each with its rows of 128 bytes one below the other, 16-byte chunk c of row r at
// place c ^ (r & 7). Queries and keys are read along their rows, values across them.
// A thread has HALVES rows of scores: two of each 16, or just the first, where a warp has no more than eight queries.

// Of the scores: with a mask they are scaled when it is added, else as they are raised to powers of two.
#ifdef MASK
constexpr float FACTOR = 1.f;
#else
constexpr float FACTOR = SCALE;
#endif
// How far (in log2) scores may outgrow the maximum that they are taken relative to before sums are rescaled: what is raised
// to a power stays below 256, and everything is divided by the sum of just these in the end.
constexpr float SLACK = 8.f / FACTOR;

constexpr int panel_bytes(int rows, int columns) { return (columns + 63) / 64 * rows * 128; }

// A place in a ring of SLOTS, and the parity of the phase to wait for.
template <int SLOTS> struct Position {
  int slot;
  uint32_t parity;
  DEVICE void advance() {
    if (++slot == SLOTS) slot = 0, parity ^= 1;
  }
};

// By a multiplying warp: what it has read may be overwritten.
DEVICE void release(uint32_t empty) {
  if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// Where a row lies in a tile: one below the other, or eights of them APART.
template <int APART> DEVICE int place_of(int row) { return APART == 0 ? row : row / 8 * APART + row % 8; }

// By `thread` of THREADS: COUNT rows of global memory, `stride` elements apart, into a tile of ROWS, eights of them APART; those not
// below `rows` become zero. Where some do, UNROLL of the requests are written out, which takes registers.
template <int ROWS, int COLUMNS, int THREADS, int COUNT = ROWS, int UNROLL = 64, int APART = 0>
DEVICE void copy_rows(unsigned char* to, const element_t* from, index_t stride, index_t rows, int thread) {
  constexpr int CHUNKS = COLUMNS / 8;
  if constexpr (THREADS % (CHUNKS * 8) == 0 && COUNT % (THREADS / CHUNKS) == 0) {
    // All of a thread's chunks lie below each other, at the same place of their rows.
    constexpr int STEP = THREADS / CHUNKS;
    const int row = thread / CHUNKS, chunk = thread % CHUNKS;
    to += chunk / 8 * (ROWS * 128) + place_of<APART>(row) * 128 + ((chunk ^ row) & 7) * 16;
    from += row * stride + chunk * 8;
    if (rows >= COUNT) {
#pragma unroll
      for (int i = 0; i < COUNT / STEP; ++i) cp_async16(to + i * (place_of<APART>(STEP) * 128), from + i * STEP * stride, true);
    } else {
#pragma unroll UNROLL
      for (int i = 0; i < COUNT / STEP; ++i)
        cp_async16(to + i * (place_of<APART>(STEP) * 128), from + i * STEP * stride, row + i * STEP < rows);
    }
  } else {
#pragma unroll 4
    for (int i = 0; i < (COUNT * CHUNKS + THREADS - 1) / THREADS; ++i) {
      const int id = thread + i * THREADS, row = id / CHUNKS, chunk = id % CHUNKS;
      if (COUNT * CHUNKS % THREADS != 0 && id >= COUNT * CHUNKS) break;
      cp_async16(to + chunk / 8 * (ROWS * 128) + place_of<APART>(row) * 128 + ((chunk ^ row) & 7) * 16,
                 from + row * stride + chunk * 8, row < rows);
    }
  }
}

// One head of an operand, and how its rows come to shared memory: by the copy engine (MAPS), which one thread asks, or by a
// warpgroup.
#if MAPS
constexpr int FILLING = 1;   // arrivals when something has come
#define OPERAND const __grid_constant__ TensorMap
typedef const TensorMap& Operand;
struct Head {
  const TensorMap& map;
  int head, batch;
};
#define HEAD_OF(x, X, batch, head, rows) \
  Head { x, (int)(head), (int)(batch) }

// ROWS rows from `first` on into a tile of TILE_ROWS; those that do not exist become zero. PARTS blocks of a cluster ask for a part
// each, and all get all of it. The rest is for threads: how many, and as copy_rows() has it.
template <int TILE_ROWS, int COLUMNS, int ROWS, int PARTS = 1, int THREADS = 128, int UNROLL = 4, int APART = 0>
DEVICE void fetch(unsigned char* to, const Head& from, index_t first, uint32_t barrier, int = 0) {
  static_assert(APART % 8 == 0 && APART <= 8, "boxes are of rows below each other");
  const int before = PARTS > 1 ? blockIdx.x % PARTS * (ROWS / PARTS) : 0, row = (int)first + before;
#pragma unroll
  for (int panel = 0; panel < (COLUMNS + 63) / 64; ++panel) {
    const uint32_t at = shared_address(to) + (panel * TILE_ROWS + before) * 128;
    if (PARTS > 1)
      copy_tile_to_all(at, from.map, panel * 64, row, from.head, from.batch, barrier, (1 << PARTS) - 1);
    else
      copy_tile(at, from.map, panel * 64, row, from.head, from.batch, barrier);
  }
}
// What has been asked for, so many bytes, will arrive at `barrier`.
DEVICE void fetched(uint32_t barrier, int bytes) { mbarrier_expect(barrier, bytes); }
DEVICE void all_fetched() {}
DEVICE void prefetch_maps(Operand q, Operand k, Operand v) {
  prefetch_map(q);
  prefetch_map(k);
  prefetch_map(v);
}
#else
constexpr int FILLING = 128;
#define OPERAND const element_t*
typedef const element_t* Operand;
struct Head {
  const element_t* first;
  index_t stride, rows;
};
#define HEAD_OF(x, X, batch, head, rows) \
  Head { x + X##_OFFSET + (batch) * X##_BATCH + (head) * X##_HEAD, X##_ROW, rows }

template <int TILE_ROWS, int COLUMNS, int ROWS, int PARTS = 1, int THREADS = 128, int UNROLL = 4, int APART = 0>
DEVICE void fetch(unsigned char* to, const Head& from, index_t first, uint32_t, int thread = threadIdx.x % 128) {
  static_assert(PARTS == 1, "only the copy engine sends to others");
  copy_rows<TILE_ROWS, COLUMNS, THREADS, ROWS, UNROLL, APART>(to, from.first + first * from.stride, from.stride,
                                                              from.rows - first, thread);
}
DEVICE void fetched(uint32_t barrier, int) { cp_async_arrive(barrier); }
// Before a thread ends.
DEVICE void all_fetched() {
  cp_async_commit();
  cp_async_wait<0>();
}
DEVICE void prefetch_maps(Operand, Operand, Operand) {}
#endif
// Whether a thread of the filling warpgroup, which begins at `first`, asks for copies.
DEVICE bool asks(int first) { return !MAPS || (same_for_warp(threadIdx.x / 32) == first / 32 && elected()); }

// Values as wgmma's right operand, of panels of ROWS rows. Adding 128 moves down 16 rows.
template <int ROWS> DEVICE uint64_t values_operand(uint32_t shared) {
  return 1ull << 62 | 64ull << 32 | (uint64_t)(ROWS * 8) << 16 | (shared & 0x3ffff) >> 4;
}

// Registers that an asynchronous product has written: what reads them stays behind the wait for it.
template <int N> DEVICE void written(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// A warpgroup's 64 x KEYS scores: 64 rows of `queries`, a tile of QUERY_ROWS, by KEYS rows of `keys`, a tile of KEY_ROWS. Not
// waited for.
template <int QUERY_ROWS, int KEY_ROWS, int KEYS>
DEVICE void ask_scores(float (&s)[KEYS / 2], uint64_t queries, uint64_t keys) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < DIM / 16; ++i)
    wgmma_step(s, queries + (i / 4 * (QUERY_ROWS * 8) + i % 4 * 2), keys + (i / 4 * (KEY_ROWS * 8) + i % 4 * 2), i > 0);
  wgmma_commit();
}

// Two neighbouring blocks of 8 scores are laid out as one left operand of 16.
template <int KEYS> DEVICE void pack_scores(uint32_t (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
  for (int j = 0; j < KEYS / 16; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[j][e] = e % 2 < HALVES ? pack2<element_t>(s[j * 8 + e * 2], s[j * 8 + e * 2 + 1]) : 0;
}

// Which scores a thread has: of row `row`, or rows `row` and row + 8, columns `column`, column + 1, column + 8, column + 9 ...
struct Corner {
  index_t batch, head, row, column;
};

// Adds the mask, of which `by_key` holds this thread's first column if it is the same for all queries; and if the tile has
// an `edge`, takes out what lies past the last key or what a causal mask hides.
template <int KEYS>
DEVICE void mask_scores(float (&s)[KEYS / 2], const Corner& at, bool edge, const float* by_key MASK_PARAMS SYMBOL_PARAMS) {
#ifdef MASK
#pragma unroll
  for (int j = 0; j < KEYS / 8; ++j) {
    float2 both = make_float2(0.f, 0.f);
    if (MASK_BY_KEY) both = *reinterpret_cast<const float2*>(by_key + j * 8);
#pragma unroll
    for (int e = 0; e < 2 * HALVES; ++e) {
      const index_t y = at.row + e / 2 * 8, x = at.column + j * 8 + e % 2;
      float add = e % 2 ? both.y : both.x;
      if (!MASK_BY_KEY && y < SIZE_Q && x < SIZE_K)
        add = mask_value(mask[MASK_OFFSET + at.batch * MASK_BATCH + at.head * MASK_HEAD + y * MASK_ROW + x * MASK_COLUMN]);
      s[j * 4 + e] = s[j * 4 + e] * SCALE + add;
    }
  }
#endif
  if (!edge) return;
  int left[HALVES];
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    const index_t seen = at.row + h * 8 + 1 + SIZE_K - SIZE_Q;
    left[h] = (int)((CAUSAL && seen < SIZE_K ? seen : SIZE_K) - at.column);
  }
  // Of the warp's first row, from its first column: what all of the warp sees is left alone.
  const int lane = threadIdx.x % 32, least = left[0] - (CAUSAL ? lane / 4 : 0) + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < KEYS / 8; ++j) {
    if (j / 4 * 32 + 32 <= least) continue;
#pragma unroll
    for (int e = 0; e < 2 * HALVES; ++e)
      if (j * 8 + e % 2 >= left[e / 2]) s[j * 4 + e] = -INFINITY;
  }
}

// A row's state, for the thread's rows: `most`, which scores are taken relative to, and the sum of this thread's powers.
struct Softmax {
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  float shrink[2] = {1.f, 1.f};   // what earlier sums are to be multiplied by

  // Replaces scores by powers of two. False if `shrink` is one for the whole warp; known when all powers are: sums are
  // never below zero.
  template <int N> DEVICE bool take(float (&s)[N]) {
#pragma unroll
    for (int h = 0; h < HALVES; ++h) {
      float top[2] = {s[h * 2], s[h * 2 + 1]};
#pragma unroll
      for (int j = 1; j < N / 4; ++j) top[0] = fmaxf(top[0], s[j * 4 + h * 2]), top[1] = fmaxf(top[1], s[j * 4 + h * 2 + 1]);
      top[0] = fmaxf(top[0], top[1]);
      top[0] = fmaxf(top[0], __shfl_xor_sync(0xffffffffu, top[0], 1));
      top[0] = fmaxf(top[0], __shfl_xor_sync(0xffffffffu, top[0], 2));
      const bool grown = top[0] > most[h] + SLACK;
      shrink[h] = grown ? exp2_fast((most[h] - top[0]) * FACTOR) : 1.f;
      if (grown) most[h] = top[0];
    }
#pragma unroll
    for (int h = 0; h < HALVES; ++h) {
      const float base = most[h] == -INFINITY ? 0.f : most[h] * FACTOR;
      float part[2] = {sum[h] * shrink[h], 0.f};
#pragma unroll
      for (int j = 0; j < N / 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[j * 4 + h * 2 + e];
          x = exp2_fast(x * FACTOR - base);
          part[e] += x;
        }
      sum[h] = part[0] + part[1];
    }
    return __any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f || sum[0] + sum[1] < 0.f);
  }
};

// Which row of the result a query has.
DEVICE index_t row_of(index_t batch, index_t head, index_t query SYMBOL_PARAMS) {
  return OUT_HEADS_INNER ? (batch * SIZE_Q + query) * HEADS + head : (batch * HEADS + head) * SIZE_Q + query;
}

// Divides a warp's rows of sums by those of their powers and stores them; `row` is this thread's first.
DEVICE void store_rows(float (&o)[DIM_V / 2], const Softmax& rows, index_t batch, index_t head, index_t row,
                       element_t* out SYMBOL_PARAMS) {
  const int lane = threadIdx.x % 32, c = lane % 4;
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    float sum = rows.sum[h];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    // A sum has the power of its row's largest score, 1, in it.
    const float factor = sum == 0.f ? 0.f : pw_quotient(1.f, sum);
    const index_t y = row + h * 8;
    element_t* const to = out + row_of(batch, head, y SYMBOL_NAMES) * DIM_V;
    const auto word = [&](int n) { return pack2<element_t>(o[n * 4 + h * 2] * factor, o[n * 4 + h * 2 + 1] * factor); };
    // Four neighbours have two columns each of four blocks; they exchange for one whole block each.
#pragma unroll
    for (int n = 0; n + 4 <= DIM_V / 8; n += 4) {
      uint32_t w[4] = {word(n), word(n + 1), word(n + 2), word(n + 3)};
      transpose_quad(w);
      if (y < SIZE_Q) *reinterpret_cast<uint4*>(to + (n + c) * 8) = make_uint4(w[0], w[1], w[2], w[3]);
    }
#pragma unroll
    for (int n = DIM_V / 32 * 4; n < DIM_V / 8; ++n)
      if (y < SIZE_Q) *reinterpret_cast<uint32_t*>(to + n * 8 + c * 2) = word(n);
  }
}
