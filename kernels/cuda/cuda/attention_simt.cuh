// attention.simt: softmax(scale * q * k^T + mask) * v in full precision, for any element type and any sizes. Each warp takes ROWS
// queries; for each tile of 32 keys a lane scores one key, then owns every 32nd column of the weighted values. SCALE and the
// mask are in units of log2(e).

constexpr int THREADS = 32 * WARPS;
constexpr int TOGETHER = 16 / sizeof(acc_t);                             // elements in 16 bytes
constexpr int PADDED = (DIM + TOGETHER - 1) / TOGETHER * TOGETHER;
// An odd number of 16-byte chunks, so that lanes that read one chunk of each row meet no bank twice.
constexpr int PITCH = PADDED / TOGETHER % 2 ? PADDED : PADDED + TOGETHER;
constexpr int WIDE = (DIM_V + 31) / 32;

DEVICE float exp2_of(float x) { return exp2f(x); }
DEVICE double exp2_of(double x) { return exp2(x); }

// ROWS_ rows of COLUMNS elements, widened, padded with zeros to a row of STRIDE_TO. Ends with every thread seeing them.
template <int ROWS_, int COLUMNS, int STRIDE_TO> DEVICE void copy(acc_t* to, const element_t* from, index_t stride, index_t rows) {
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS_ * STRIDE_TO; i += THREADS) {
    const int row = i / STRIDE_TO, column = i % STRIDE_TO;
    const bool inside = row < rows && column < COLUMNS;
    // Asynchronous where nothing must be widened: many loads in flight without registers.
    if constexpr (sizeof(element_t) == sizeof(acc_t)) cp_async<sizeof(acc_t)>(to + i, from + row * stride + column, inside);
    else to[i] = inside ? (acc_t)widen(from[row * stride + column]) : acc_t(0);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_NAME(const element_t* q, const element_t* k, const element_t* v MASK_PARAMS,
                element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(128) unsigned char shared[];
  acc_t* const shared_q = reinterpret_cast<acc_t*>(shared);
  acc_t* const tile = shared_q + WARPS * ROWS * PADDED;
  acc_t* const weights = tile + 32 * (PITCH > DIM_V ? PITCH : DIM_V);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  constexpr int BLOCK_Q = WARPS * ROWS;
  const index_t tiles_q = (SIZE_Q + BLOCK_Q - 1) / BLOCK_Q;
  const index_t tile_q = CAUSAL ? tiles_q - 1 - blockIdx.x % tiles_q : blockIdx.x % tiles_q;
  const index_t head = blockIdx.x / tiles_q % HEADS, batch = blockIdx.x / tiles_q / HEADS, q0 = tile_q * BLOCK_Q;
  const index_t head_kv = head * KV_HEADS / HEADS;
  const index_t ahead = SIZE_K - SIZE_Q;   // a causal mask lets query i see keys up to i + ahead
  index_t keys = SIZE_K;
  if (CAUSAL) {
    const index_t seen = (q0 + BLOCK_Q < SIZE_Q ? q0 + BLOCK_Q : SIZE_Q) + ahead;
    keys = seen < 0 ? 0 : seen < keys ? seen : keys;
  }
  const element_t* from_k = k + K_OFFSET + batch * K_BATCH + head_kv * K_HEAD;
  const element_t* from_v = v + V_OFFSET + batch * V_BATCH + head_kv * V_HEAD;

  dependency_wait();
  copy<BLOCK_Q, DIM, PADDED>(shared_q, q + Q_OFFSET + batch * Q_BATCH + head * Q_HEAD + q0 * Q_ROW, Q_ROW, SIZE_Q - q0);
  acc_t o[ROWS][WIDE] = {}, most[ROWS], sum[ROWS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; ++r) most[r] = -INFINITY;
#pragma unroll 1
  for (index_t k0 = 0; k0 < keys; k0 += 32) {
    __syncthreads();
    copy<32, DIM, PITCH>(tile, from_k + k0 * K_ROW, K_ROW, SIZE_K - k0);
    acc_t s[ROWS] = {};
#pragma unroll 4
    for (int d = 0; d < PADDED; d += TOGETHER) {
      const Vec<acc_t, TOGETHER> y = load_vec<TOGETHER>(tile + lane * PITCH + d);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const Vec<acc_t, TOGETHER> x = load_vec<TOGETHER>(shared_q + (warp * ROWS + r) * PADDED + d);
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) s[r] += x.v[i] * y.v[i];
      }
    }
    const index_t x = k0 + lane;
    acc_t shrink[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const index_t y = q0 + warp * ROWS + r;
      acc_t score = s[r] * (acc_t)SCALE;
#ifdef MASK
      if (y < SIZE_Q && x < SIZE_K)
        score += mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + y * MASK_ROW + x * MASK_COLUMN]);
#endif
      if (x >= SIZE_K || (CAUSAL && x > y + ahead)) score = -INFINITY;
      const acc_t top = pw_max(most[r], warp_max(score)), base = top == acc_t(-INFINITY) ? acc_t(0) : top;
      shrink[r] = exp2_of(most[r] - base);
      most[r] = top;
      const acc_t weight = exp2_of(score - base);
      sum[r] = sum[r] * shrink[r] + weight;
      weights[(warp * 32 + lane) * ROWS + r] = weight;
    }
    __syncthreads();
    copy<32, DIM_V, DIM_V>(tile, from_v + k0 * V_ROW, V_ROW, SIZE_K - k0);
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int i = 0; i < WIDE; ++i) o[r][i] *= shrink[r];
#pragma unroll 4
    for (int j = 0; j < 32; ++j) {
      const Vec<acc_t, ROWS> weight = load_vec<ROWS>(weights + (warp * 32 + j) * ROWS);
#pragma unroll
      for (int i = 0; i < WIDE; ++i) {
        const int d = lane + i * 32;
        const acc_t value = DIM_V % 32 == 0 || d < DIM_V ? tile[j * DIM_V + d] : acc_t(0);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) o[r][i] += weight.v[r] * value;
      }
    }
  }
  launch_dependents();
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const index_t y = q0 + warp * ROWS + r;
    const acc_t total = warp_sum(sum[r]), factor = total == acc_t(0) ? acc_t(0) : acc_t(1) / total;
    if (y >= SIZE_Q) continue;
    const index_t at = OUT_HEADS_INNER ? (batch * SIZE_Q + y) * HEADS + head : (batch * HEADS + head) * SIZE_Q + y;
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
      const int d = lane + i * 32;
      if (DIM_V % 32 == 0 || d < DIM_V) out[at * DIM_V + d] = narrow<element_t>(o[r][i] * factor);
    }
  }
}
