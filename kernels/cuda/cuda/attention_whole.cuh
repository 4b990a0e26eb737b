// attention.whole: softmax(scale * q * k^T + mask) * v on Hopper's tensor cores, where all keys of a head fit a tile. A
// block asks for its BLOCK_Q queries and the head's KEYS keys and values at once; each of its GROUPS warpgroups takes
// TURNS times 64 queries, whose scores are all in registers, so that nothing is rescaled.

constexpr int BLOCK_Q = 64 * GROUPS * TURNS;
constexpr int THREADS = 128 * GROUPS;
constexpr int Q_BYTES = panel_bytes(BLOCK_Q, DIM), K_BYTES = panel_bytes(KEYS, DIM), V_BYTES = panel_bytes(KEYS, DIM_V);
static_assert(KEYS % 16 == 0 && KEYS <= 256 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* q, const element_t* k, const element_t* v MASK_PARAMS,
                element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH;
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char *const shared_k = shared + Q_BYTES, *const shared_v = shared_k + K_BYTES;
  float* const shared_mask = reinterpret_cast<float*>(shared_v + V_BYTES);
  const int lane = threadIdx.x % 32, group = threadIdx.x / 128, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const index_t tiles_q = (SIZE_Q + BLOCK_Q - 1) / BLOCK_Q;
  const index_t tile_q = CAUSAL ? tiles_q - 1 - blockIdx.x % tiles_q : blockIdx.x % tiles_q;
  const index_t head = blockIdx.x / tiles_q % HEADS, batch = blockIdx.x / tiles_q / HEADS, q0 = tile_q * BLOCK_Q;
  const index_t head_kv = head * KV_HEADS / HEADS;
  const element_t* const from_q = q + Q_OFFSET + batch * Q_BATCH + head * Q_HEAD + q0 * Q_ROW;
  const element_t* const from_k = k + K_OFFSET + batch * K_BATCH + head_kv * K_HEAD;
  const element_t* const from_v = v + V_OFFSET + batch * V_BATCH + head_kv * V_HEAD;

  dependency_wait();
  copy_tile<KEYS, DIM, THREADS>(shared_k, from_k, K_ROW, SIZE_K, threadIdx.x);
  // The first 64 queries of each group lie together, then the second ones.
#pragma unroll
  for (int i = 0; i < TURNS; ++i) {
    const index_t first = i * GROUPS * 64;
    copy_tile<64 * GROUPS, DIM, THREADS>(shared + i * (Q_BYTES / TURNS), from_q + first * Q_ROW, Q_ROW, SIZE_Q - q0 - first,
                                         threadIdx.x);
    if (i == 0) cp_async_commit();
  }
  copy_tile<KEYS, DIM_V, THREADS>(shared_v, from_v, V_ROW, SIZE_K, threadIdx.x);
  cp_async_commit();
#ifdef MASK
  if (MASK_BY_KEY) {
    for (int i = threadIdx.x; i < KEYS; i += THREADS)
      shared_mask[i] = i < SIZE_K ? mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + i * MASK_COLUMN]) : 0.f;
  }
#endif
  if (EARLY) launch_dependents();
  cp_async_wait<1>();
  fence_async_shared();
  __syncthreads();

  const uint64_t queries = wgmma_operand(shared_address(shared) + group * 8192);
  const uint64_t keys = wgmma_operand(shared_address(shared_k)), values = values_operand<KEYS>(shared_address(shared_v));
#pragma unroll 1
  for (int i = 0; i < TURNS; ++i) {
    const index_t mine = q0 + (i * GROUPS + group) * 64;
    if (i > 0 && mine >= SIZE_Q) break;
    float s[KEYS / 2];
    ask_scores<64 * GROUPS, KEYS>(s, queries + i * (Q_BYTES / TURNS / 16), keys);
    wgmma_wait<0>();
    written(s);
    const Corner at = {batch, head, mine + row, lane % 4 * 2};
    mask_scores<KEYS>(s, at, CAUSAL || SIZE_K < KEYS, shared_mask + lane % 4 * 2 MASK_NAMES SYMBOL_NAMES);
    Softmax rows;
    rows.take(s);
    uint32_t p[KEYS / 16][4];
    pack_scores<KEYS>(p, s);
    if (i == 0) {
      cp_async_wait<0>();
      fence_async_shared();
      __syncthreads();
    }
    float o[DIM_V / 2];
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j) wgmma_values(o, p[j], values + j * 128, j > 0);
    wgmma_commit();
    wgmma_wait<0>();
    written(o);
    if (!EARLY && i == TURNS - 1) launch_dependents();
    store_rows(o, rows, batch, head, mine + row, out SYMBOL_NAMES);
  }
}
