// attention.mma: softmax(scale * q * k^T + mask) * v on tensor cores, without ever storing the scores. A block takes BLOCK_Q queries
// of one head, 16 for each warp, and walks the keys in tiles of BLOCK_K, keeping the running maximum, sum and weighted values in
// registers. GROUPS sets of warps share each tile of keys and merge at the end. SCALE and the mask are in units of log2(e).

constexpr int WARPS = BLOCK_Q / 16;
constexpr int THREADS = 32 * WARPS * GROUPS;
constexpr int KEYS = BLOCK_K / GROUPS;
// Rows are padded by 16 bytes: DIM / 8 is even, so eight rows of one chunk lie in different banks.
constexpr int PITCH = DIM * 2 + 16, PITCH_V = DIM_V * 2 + 16;
constexpr int BYTES_Q = BLOCK_Q * (PITCH > PITCH_V ? PITCH : PITCH_V);
constexpr int BYTES_K = BLOCK_K * PITCH, BYTES_V = BLOCK_K * PITCH_V;
constexpr bool HOLD_Q = DIM <= 128;   // else q is read from shared memory for every tile
// Blocks on a multiprocessor that leave room for the scores, the values, the queries and the rest without spills.
constexpr int REGISTERS = KEYS / 2 + DIM_V / 2 + (HOLD_Q ? DIM / 4 : 4) + (MASK_BY_KEY ? KEYS / 4 : 0) + 80;
constexpr int FIT = 65536 / (THREADS * REGISTERS), MOST = 1024 / THREADS;
constexpr int BLOCKS = FIT < 1 ? 1 : FIT < MOST ? FIT : MOST;
static_assert(KEYS % 16 == 0 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");

// Rows from global memory, `stride` elements apart; those not below `rows` become zero.
template <int ROWS, int COLUMNS> DEVICE void copy(unsigned char* to, const element_t* from, index_t stride, index_t rows) {
  constexpr int CHUNKS = COLUMNS / 8;
#pragma unroll 4
  for (int i = 0; i < (ROWS * CHUNKS + THREADS - 1) / THREADS; ++i) {
    const int id = threadIdx.x + i * THREADS, row = id / CHUNKS, chunk = id % CHUNKS;
    if (ROWS * CHUNKS % THREADS != 0 && id >= ROWS * CHUNKS) break;
    cp_async16(to + row * (COLUMNS * 2 + 16) + chunk * 16, from + row * stride + chunk * 8, row < rows);
  }
}

DEVICE void load_q(uint32_t (&r)[4], const unsigned char* rows, int step) {
  const int lane = threadIdx.x % 32;
  ldmatrix_x4(r, rows + lane % 16 * PITCH + (step * 2 + lane / 16) * 16);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* q, const element_t* k, const element_t* v MASK_PARAMS,
                element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned char* const shared_q = shared;
  unsigned char* const shared_k = shared + BYTES_Q;
  unsigned char* const shared_v = shared_k + STAGES * BYTES_K;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS, group = threadIdx.x / (32 * WARPS);

  const index_t tiles_q = (SIZE_Q + BLOCK_Q - 1) / BLOCK_Q;
  // With a causal mask the last queries take longest: they start first.
  const index_t tile_q = CAUSAL ? tiles_q - 1 - blockIdx.x % tiles_q : blockIdx.x % tiles_q;
  const index_t head = blockIdx.x / tiles_q % HEADS, batch = blockIdx.x / tiles_q / HEADS, q0 = tile_q * BLOCK_Q;
  const index_t head_kv = head * KV_HEADS / HEADS;
  const index_t ahead = SIZE_K - SIZE_Q;   // a causal mask lets query i see keys up to i + ahead
  index_t keys = SIZE_K;
  if (CAUSAL) {
    const index_t seen = (q0 + BLOCK_Q < SIZE_Q ? q0 + BLOCK_Q : SIZE_Q) + ahead;
    keys = seen < 0 ? 0 : seen < keys ? seen : keys;
  }
  const index_t tiles = (keys + BLOCK_K - 1) / BLOCK_K;
  const element_t* from_q = q + Q_OFFSET + batch * Q_BATCH + head * Q_HEAD + q0 * Q_ROW;
  const element_t* from_k = k + K_OFFSET + batch * K_BATCH + head_kv * K_HEAD;
  const element_t* from_v = v + V_OFFSET + batch * V_BATCH + head_kv * V_HEAD;
  auto load_k = [&](index_t t) {
    if (t < tiles)
      copy<BLOCK_K, DIM>(shared_k + t % STAGES * BYTES_K, from_k + t * BLOCK_K * K_ROW, K_ROW, SIZE_K - t * BLOCK_K);
    cp_async_commit();
  };
  auto load_v = [&](index_t t) {
    if (t < tiles)
      copy<BLOCK_K, DIM_V>(shared_v + t % STAGES * BYTES_V, from_v + t * BLOCK_K * V_ROW, V_ROW, SIZE_K - t * BLOCK_K);
    cp_async_commit();
  };

  dependency_wait();
  copy<BLOCK_Q, DIM>(shared_q, from_q, Q_ROW, SIZE_Q - q0);
  load_k(0);
  if (STAGES == 2) load_v(0);
  uint32_t fragments[HOLD_Q ? DIM / 16 : 1][4];
  float o[DIM_V / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};   // of rows lane / 4 and lane / 4 + 8
#pragma unroll 1
  for (index_t t = 0; t < tiles; ++t) {
    // In flight at most: with one stage this k, with two this k and then this v.
    cp_async_wait<STAGES - 1>();
    __syncthreads();
    // Every warp is done with the values (one stage) or the keys (two) of the tile before.
    if (STAGES == 1) load_v(t);
    else load_k(t + 1);
    const unsigned char* rows_q = shared_q + warp * 16 * PITCH;
    if (HOLD_Q && t == 0) {
#pragma unroll
      for (int i = 0; i < DIM / 16; ++i) load_q(fragments[HOLD_Q ? i : 0], rows_q, i);
    }

    const index_t row = q0 + warp * 16 + lane / 4, column = t * BLOCK_K + group * KEYS + lane % 4 * 2;
#ifdef MASK
    // A mask that is the same for every query is asked for before the scores are there.
    float by_key[MASK_BY_KEY ? KEYS / 8 : 1][2];
    if (MASK_BY_KEY) {
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const index_t x = column + j * 8 + e;
          by_key[j][e] = 0.f;
          if (x < SIZE_K) by_key[j][e] = mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + x * MASK_COLUMN]);
        }
    }
#endif
    const unsigned char* rows_k = shared_k + t % STAGES * BYTES_K + group * KEYS * PITCH;
    float s[KEYS / 8][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) {
      if (!HOLD_Q) load_q(fragments[0], rows_q, i);
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        uint32_t r[4];
        ldmatrix_x4(r, rows_k + (j * 16 + lane % 8 + lane / 16 * 8) * PITCH + (i * 2 + lane / 8 % 2) * 16);
        mma_m16n8k16<element_t>(s[j * 2], fragments[HOLD_Q ? i : 0], {r[0], r[1]});
        mma_m16n8k16<element_t>(s[j * 2 + 1], fragments[HOLD_Q ? i : 0], {r[2], r[3]});
      }
    }

    const bool edge = (t + 1) * BLOCK_K > SIZE_K || (CAUSAL && (t + 1) * BLOCK_K > q0 + ahead + 1);
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[j][e] *= SCALE;
#ifdef MASK
        const index_t y = row + e / 2 * 8, x = column + j * 8 + e % 2;
        if (MASK_BY_KEY)
          s[j][e] += by_key[MASK_BY_KEY ? j : 0][e % 2];
        else if (y < SIZE_Q && x < SIZE_K)
          s[j][e] += mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + y * MASK_ROW + x * MASK_COLUMN]);
#endif
      }
    if (edge) {
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const index_t y = row + e / 2 * 8, x = column + j * 8 + e % 2;
          if (x >= SIZE_K || (CAUSAL && x > y + ahead)) s[j][e] = -INFINITY;
        }
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = most[h];
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) top = fmaxf(top, fmaxf(s[j][h * 2], s[j][h * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float base = top == -INFINITY ? 0.f : top, shrink = exp2_fast(most[h] - base);
      most[h] = top;
      sum[h] *= shrink;
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) {
        s[j][h * 2] = exp2_fast(s[j][h * 2] - base);
        s[j][h * 2 + 1] = exp2_fast(s[j][h * 2 + 1] - base);
        sum[h] += s[j][h * 2] + s[j][h * 2 + 1];
      }
#pragma unroll
      for (int n = 0; n < DIM_V / 8; ++n) o[n][h * 2] *= shrink, o[n][h * 2 + 1] *= shrink;
    }

    cp_async_wait<STAGES - 1>();
    __syncthreads();
    if (STAGES == 1) load_k(t + 1);
    else load_v(t + 1);
    const unsigned char* rows_v = shared_v + t % STAGES * BYTES_V + group * KEYS * PITCH_V;
#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j) {
      // Two neighbouring tiles of scores are laid out as one left operand.
      const uint32_t p[4] = {pack2<element_t>(s[j * 2][0], s[j * 2][1]), pack2<element_t>(s[j * 2][2], s[j * 2][3]),
                             pack2<element_t>(s[j * 2 + 1][0], s[j * 2 + 1][1]),
                             pack2<element_t>(s[j * 2 + 1][2], s[j * 2 + 1][3])};
#pragma unroll
      for (int n = 0; n < DIM_V / 16; ++n) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, rows_v + (j * 16 + lane % 16) * PITCH_V + (n * 2 + lane / 16) * 16);
        mma_m16n8k16<element_t>(o[n * 2], p, {r[0], r[1]});
        mma_m16n8k16<element_t>(o[n * 2 + 1], p, {r[2], r[3]});
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();
  launch_dependents();

  if constexpr (GROUPS > 1) {
    // The same thread of each group holds the same elements.
    constexpr int EACH = DIM_V / 2 + 4;
    float* kept = reinterpret_cast<float*>(shared_k) + warp * 32 * EACH + lane;
    if (group > 0) {
      float* to = kept + (group - 1) * WARPS * 32 * EACH;
#pragma unroll
      for (int i = 0; i < DIM_V / 2; ++i) to[i * 32] = o[i / 4][i % 4];
#pragma unroll
      for (int h = 0; h < 2; ++h) to[(DIM_V / 2 + h) * 32] = most[h], to[(DIM_V / 2 + 2 + h) * 32] = sum[h];
    }
    __syncthreads();
    if (group > 0) return;
#pragma unroll
    for (int g = 1; g < GROUPS; ++g) {
      const float* from = kept + (g - 1) * WARPS * 32 * EACH;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float other = from[(DIM_V / 2 + h) * 32], top = fmaxf(most[h], other), base = top == -INFINITY ? 0.f : top;
        const float mine = exp2_fast(most[h] - base), theirs = exp2_fast(other - base);
        most[h] = top;
        sum[h] = sum[h] * mine + from[(DIM_V / 2 + 2 + h) * 32] * theirs;
#pragma unroll
        for (int n = 0; n < DIM_V / 8; ++n)
#pragma unroll
          for (int e = h * 2; e < h * 2 + 2; ++e) o[n][e] = o[n][e] * mine + from[(n * 4 + e) * 32] * theirs;
      }
    }
  }

  // Rows leave through shared memory, 16 bytes for each lane.
  unsigned char* rows = shared_q + warp * 16 * PITCH_V;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    const float factor = sum[h] == 0.f ? 0.f : 1.f / sum[h];
#pragma unroll
    for (int n = 0; n < DIM_V / 8; ++n)
      *reinterpret_cast<uint32_t*>(rows + (lane / 4 + h * 8) * PITCH_V + (n * 8 + lane % 4 * 2) * 2) =
          pack2<element_t>(o[n][h * 2] * factor, o[n][h * 2 + 1] * factor);
  }
  __syncwarp();
#pragma unroll
  for (int i = lane; i < 16 * (DIM_V / 8); i += 32) {
    const index_t row = i / (DIM_V / 8), chunk = i % (DIM_V / 8), y = q0 + warp * 16 + row;
    if (y >= SIZE_Q) continue;
    const index_t at = OUT_HEADS_INNER ? (batch * SIZE_Q + y) * HEADS + head : (batch * HEADS + head) * SIZE_Q + y;
    *reinterpret_cast<uint4*>(out + at * DIM_V + chunk * 8) = *reinterpret_cast<const uint4*>(rows + row * PITCH_V + chunk * 16);
  }
}
