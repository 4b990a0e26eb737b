// attention.whole: softmax(scale * q * k^T + mask) * v on Hopper's tensor cores, where a block holds all keys and values of a
// head: PARTS times KEYS. It asks for everything at once, by all threads or (MAPS) one, and begins with what has come; each of its
// GROUPS warpgroups takes TURNS times QUERIES queries, 64 or 32: products are of 64 rows always, but fewer queries are fewer
// powers, and more blocks.

constexpr int BLOCK_Q = QUERIES * GROUPS * TURNS, HELD_Q = 64 * GROUPS * TURNS;
constexpr int THREADS = 128 * GROUPS;
constexpr int ROWS = PARTS * KEYS;
constexpr int Q_BYTES = panel_bytes(HELD_Q, DIM), K_BYTES = panel_bytes(ROWS, DIM), V_BYTES = panel_bytes(ROWS, DIM_V);
static_assert(PARTS == 1 || PARTS == 2, "the waits below are for these");
static_assert(KEYS % 16 == 0 && KEYS <= 256 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(OPERAND q, OPERAND k, OPERAND v MASK_PARAMS, element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char *const shared_k = shared + Q_BYTES, *const shared_v = shared_k + K_BYTES;
  float* const shared_mask = reinterpret_cast<float*>(shared_v + V_BYTES);
  const int group = same_for_warp(threadIdx.x / 128);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 % 4 * (QUERIES / 4), row = warp_row + lane / 4;
  const index_t tiles_q = (SIZE_Q + BLOCK_Q - 1) / BLOCK_Q;
  const index_t tile_q = CAUSAL ? tiles_q - 1 - blockIdx.x % tiles_q : blockIdx.x % tiles_q;
  const index_t head = blockIdx.x / tiles_q % HEADS, batch = blockIdx.x / tiles_q / HEADS, q0 = tile_q * BLOCK_Q;
  const index_t head_kv = head * KV_HEADS / HEADS;
  const Head of_q = HEAD_OF(q, Q, batch, head, SIZE_Q);
  const Head of_k = HEAD_OF(k, K, batch, head_kv, SIZE_K), of_v = HEAD_OF(v, V, batch, head_kv, SIZE_K);

  // Keys that no query of this block sees are not asked for.
  index_t seen = SIZE_K;
  if (CAUSAL) {
    const index_t most = (q0 + BLOCK_Q < SIZE_Q ? q0 + BLOCK_Q : SIZE_Q) + SIZE_K - SIZE_Q;
    seen = most < seen ? most : seen;
  }

#if MAPS
  // Of each part: its keys have come, its values have.
  const uint32_t full = shared_address(shared_mask + ROWS);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2 * PARTS; ++i) mbarrier_init(full + 8 * i, 1);
    mbarrier_init_done();
    prefetch_maps(q, k, v);
  }
  __syncthreads();
  const auto asked_for = [](uint32_t barrier, int bytes) { fetched(barrier, bytes); };
  const auto keys_come = [&](int part) { mbarrier_wait(full + part * 16, 0); };
  const auto values_come = [&](int part) { mbarrier_wait(full + part * 16 + 8, 0); };
#else
  constexpr uint32_t full = 0;
  const auto asked_for = [](uint32_t, int) { cp_async_commit(); };
  const auto arrived = [] {
    fence_async_shared();
    __syncthreads();
  };
  const auto keys_come = [&](int part) {
    if (part == PARTS - 1) cp_async_wait<1>();
    else cp_async_wait<3>();
    arrived();
  };
  const auto values_come = [&](int part) {
    if (part == PARTS - 1) cp_async_wait<0>();
    else cp_async_wait<2>();
    arrived();
  };
#endif
  dependency_wait();
  if (asks(0)) {
    // The first queries of each group lie together, and come with the first keys; the second ones come with the last values.
    constexpr int TURN_BYTES = Q_BYTES / TURNS;
    const auto fetch_queries = [&](int i, uint32_t barrier) {
      fetch<64 * GROUPS, DIM, GROUPS * QUERIES, 1, THREADS, 64, 16 / HALVES>(shared + i * TURN_BYTES, of_q, q0 + i * GROUPS * QUERIES,
                                                                            barrier, threadIdx.x);
    };
    fetch_queries(CAUSAL ? TURNS - 1 : 0, full);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const index_t first = part * KEYS;
      const bool asked = !CAUSAL || part == 0 || first < seen;
      const uint32_t full_k = full + part * 16, full_v = full_k + 8;
      if (asked) fetch<ROWS, DIM, KEYS, 1, THREADS, 64, 8>(shared_k + first * 128, of_k, first, full_k, threadIdx.x);
      asked_for(full_k, (asked ? panel_bytes(KEYS, DIM) : 0) + (part == 0 ? TURN_BYTES : 0));
      if (asked) fetch<ROWS, DIM_V, KEYS, 1, THREADS, 64, 8>(shared_v + first * 128, of_v, first, full_v, threadIdx.x);
      if (part == PARTS - 1) {
#pragma unroll
        for (int i = 1; i < TURNS; ++i) fetch_queries(CAUSAL ? TURNS - 1 - i : i, full_v);
      }
      asked_for(full_v, (asked ? panel_bytes(KEYS, DIM_V) : 0) + (part == PARTS - 1 ? (TURNS - 1) * TURN_BYTES : 0));
    }
  }
#ifdef MASK
  if (MASK_BY_KEY) {
    for (int i = threadIdx.x; i < ROWS; i += THREADS)
      shared_mask[i] = i < SIZE_K ? mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + i * MASK_COLUMN]) : 0.f;
    if (MAPS) __syncthreads();
  }
#endif
  if (EARLY) launch_dependents();
  PREFETCH(threadIdx.x == 0);

  const uint64_t queries = wgmma_operand(shared_address(shared) + group * 8192);
  const uint64_t keys = wgmma_operand(shared_address(shared_k)), values = values_operand<ROWS>(shared_address(shared_v));
#pragma unroll 1
  for (int i = 0; i < TURNS; ++i) {
    if (!EARLY && i == TURNS - 1) launch_dependents();
    // The last queries, which see most keys, come first under a causal mask.
    const int turn = CAUSAL ? TURNS - 1 - i : i;
    const index_t mine = q0 + (turn * GROUPS + group) * QUERIES;
    if (i > 0 && mine >= SIZE_Q) continue;
    if (i > 0 && MAPS) values_come(PARTS - 1);
    // Warps past the last query only take part in products.
    const bool used = mine + warp_row < SIZE_Q;
    float s[KEYS / 2], o[DIM_V / 2];
    uint32_t p[KEYS / 16][4];
    Softmax rows;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const index_t first = part * KEYS;
      // No key of this part is before the last of these queries.
      if (CAUSAL && part > 0 && first > mine + QUERIES - 1 + SIZE_K - SIZE_Q) {
        // As often as those who see keys of it.
        if (i == 0 && !MAPS) keys_come(part), values_come(part);
        break;
      }
      if (i == 0) keys_come(part);
      ask_scores<64 * GROUPS, ROWS, KEYS>(s, queries + turn * (Q_BYTES / TURNS / 16), keys + first * 8);
      wgmma_wait<0>();
      written(s);
      if (used) {
        const Corner at = {batch, head, mine + row, first + lane % 4 * 2};
        const bool edge = first + KEYS > (CAUSAL ? min(mine + 1 + SIZE_K - SIZE_Q, (index_t)SIZE_K) : (index_t)SIZE_K);
        mask_scores<KEYS>(s, at, edge, shared_mask + first + lane % 4 * 2 MASK_NAMES SYMBOL_NAMES);
        const bool grown = rows.take(s);
        if (part > 0 && grown) {
#pragma unroll
          for (int j = 0; j < DIM_V / 2; ++j) o[j] *= rows.shrink[j / 2 % 2];
        }
      }
      pack_scores<KEYS>(p, s);
      if (i == 0) values_come(part);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) wgmma_values(o, p[j], values + (first * 8 + j * 128), part > 0 || j > 0);
      wgmma_commit();
      wgmma_wait<0>();
      written(o);
    }
    store_rows(o, rows, batch, head, mine + row, out SYMBOL_NAMES);
  }
}
