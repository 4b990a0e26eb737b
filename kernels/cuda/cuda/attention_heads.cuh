// attention.heads: softmax(scale * q * k^T + mask) * v on Hopper's tensor cores, of many heads whose keys fit in shared memory. A
// block walks over heads; its last warpgroup fills a ring of STAGES whole heads, so that the next one arrives while this one is
// multiplied. Each of CONSUMERS warpgroups takes every CONSUMERS-th tile of 64 queries, counted on from head to head, and all KEYS
// of it at once, in PARTS products: no sums are rescaled, and heads whose tiles do not share out evenly keep every warpgroup busy
// all the same.
// full: one arrival of each filling thread, two where it also stores a mask. empty: one of each multiplying warp and head, of each
// thread where it reads a mask, also of those that have no tile of it, so that none of them falls behind by a whole round.

constexpr int THREADS = 128 * (CONSUMERS + 1);
constexpr int ROWS_Q = 64 * TILES;
constexpr int Q_BYTES = panel_bytes(ROWS_Q, DIM), K_BYTES = panel_bytes(KEYS, DIM), V_BYTES = panel_bytes(KEYS, DIM_V);
#ifdef MASK
constexpr int MASK_STAGE = MASK_BY_KEY ? KEYS : 0;
#else
constexpr int MASK_STAGE = 0;
#endif
static_assert(KEYS % 16 == 0 && KEYS <= 256 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");
static_assert(KEYS / PARTS % 8 == 0, "a product's keys lie in eights");
static_assert(QUERIES % 16 == 0 && QUERIES <= ROWS_Q && QUERIES > ROWS_Q - 64, "the last tile has a query");

// The number of this block's n-th head: the last come first, since whatever has made the operands is likely to have made those
// last, and L2 still has them. Below zero past the end.
#define NUMBER(n) (SIZE_BATCH * HEADS - 1 - (index_t)blockIdx.x - (n) * (index_t)gridDim.x)

// Where everything lies in shared memory.
struct Place {
  unsigned char *q, *k, *v;
  float* mask;
  uint32_t full_k, empty_k, full_v, empty_v;   // the queries come with the keys
  DEVICE Place(unsigned char* shared) {
    q = shared, k = q + STAGES * Q_BYTES, v = k + STAGES * K_BYTES;
    mask = reinterpret_cast<float*>(v + STAGES * V_BYTES);
    full_k = shared_address(mask + STAGES * MASK_STAGE);
    empty_k = full_k + 8 * STAGES, full_v = empty_k + 8 * STAGES, empty_v = full_v + 8 * STAGES;
  }
};

DEVICE void fill(const Place& place, const element_t* q, const element_t* k, const element_t* v MASK_PARAMS SYMBOL_PARAMS) {
  const int thread = threadIdx.x % 128;
  Position<STAGES> at = {0, 1};
  dependency_wait();
#pragma unroll 1
  for (index_t n = 0; NUMBER(n) >= 0; ++n) {
    const index_t batch = NUMBER(n) / HEADS, head = NUMBER(n) % HEADS, head_kv = head * KV_HEADS / HEADS;
    mbarrier_wait(place.empty_k + 8 * at.slot, at.parity);
    copy_rows<ROWS_Q, DIM, 128, QUERIES, 4>(place.q + at.slot * Q_BYTES, q + Q_OFFSET + batch * Q_BATCH + head * Q_HEAD, Q_ROW,
                                            SIZE_Q, thread);
    copy_rows<KEYS, DIM, 128, KEYS, 4>(place.k + at.slot * K_BYTES, k + K_OFFSET + batch * K_BATCH + head_kv * K_HEAD, K_ROW,
                                       SIZE_K, thread);
    cp_async_arrive(place.full_k + 8 * at.slot);
#ifdef MASK
    if (MASK_BY_KEY) {
      const index_t from = MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD;
      for (int i = thread; i < KEYS; i += 128)
        place.mask[at.slot * MASK_STAGE + i] = i < SIZE_K ? mask_value(mask[from + i * MASK_COLUMN]) : 0.f;
      mbarrier_arrive(place.full_k + 8 * at.slot);
    }
#endif
    mbarrier_wait(place.empty_v + 8 * at.slot, at.parity);
    copy_rows<KEYS, DIM_V, 128, KEYS, 4>(place.v + at.slot * V_BYTES, v + V_OFFSET + batch * V_BATCH + head_kv * V_HEAD, V_ROW,
                                         SIZE_K, thread);
    cp_async_arrive(place.full_v + 8 * at.slot);
    at.advance();
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// By a multiplying warp: of a mask, every lane has read a part of its own.
DEVICE void done_with_keys(uint32_t empty) {
  if (MASK_STAGE > 0)
    mbarrier_arrive(empty);
  else
    release(empty);
}

DEVICE void multiply(const Place& place MASK_PARAMS, element_t* out SYMBOL_PARAMS) {
  const int group = same_for_warp(threadIdx.x / 128);
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const uint64_t queries = wgmma_operand(shared_address(place.q));
  const uint64_t keys = wgmma_operand(shared_address(place.k)), values = values_operand<KEYS>(shared_address(place.v));
  Position<STAGES> at = {0, 0};
  int tile = group;   // this warpgroup's next, from the first of this head
#pragma unroll 1
  for (index_t n = 0; NUMBER(n) >= 0; ++n) {
    const index_t batch = NUMBER(n) / HEADS, head = NUMBER(n) % HEADS;
    if (NUMBER(n + 1) < 0) launch_dependents();
    mbarrier_wait(place.full_k + 8 * at.slot, at.parity);
    fence_async_shared();
    if (TILES < CONSUMERS && tile >= TILES) {
      mbarrier_wait(place.full_v + 8 * at.slot, at.parity);
      done_with_keys(place.empty_k + 8 * at.slot);
      release(place.empty_v + 8 * at.slot);
    }
#pragma unroll 1
    for (; tile < TILES; tile += CONSUMERS) {
      const index_t mine = tile * 64;
      const bool last = tile + CONSUMERS >= TILES;
      // Warps past the last query only take part in products.
      const bool used = mine + row - lane / 4 < SIZE_Q;
      float s[KEYS / 2], o[DIM_V / 2];
      uint32_t p[KEYS / 16][4];
      Softmax rows;
      // In turns, so that one warpgroup's products come before another's and its powers beside them.
      if (TURNS && CONSUMERS > 1 && (n > 0 || tile > 0)) named_barrier(2 + group, 256);
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
        ask_scores<ROWS_Q, KEYS, KEYS / PARTS>(reinterpret_cast<float(&)[KEYS / PARTS / 2]>(s[part * (KEYS / PARTS / 2)]),
                                               queries + (at.slot * (Q_BYTES / 16) + tile * 512),
                                               keys + (at.slot * (K_BYTES / 16) + part * (KEYS / PARTS * 8)));
      if (TURNS && CONSUMERS > 1 && (tile + 1 < TILES || NUMBER(n + 1) >= 0))
        named_barrier_arrive(2 + (group + 1 == CONSUMERS ? 0 : group + 1), 256);
      wgmma_wait<0>();
      written(s);
      if (last && MASK_STAGE == 0) done_with_keys(place.empty_k + 8 * at.slot);
      if (used) {
        const Corner corner = {batch, head, mine + row, lane % 4 * 2};
        const bool edge = KEYS > (CAUSAL ? min(mine + 1 + SIZE_K - SIZE_Q, (index_t)SIZE_K) : (index_t)SIZE_K);
        mask_scores<KEYS>(s, corner, edge, place.mask + at.slot * MASK_STAGE + lane % 4 * 2 MASK_NAMES SYMBOL_NAMES);
      }
      if (last && MASK_STAGE > 0) done_with_keys(place.empty_k + 8 * at.slot);
      if (used) rows.take(s);
      pack_scores<KEYS>(p, s);
      mbarrier_wait(place.full_v + 8 * at.slot, at.parity);
      fence_async_shared();
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) wgmma_values(o, p[j], values + (at.slot * (V_BYTES / 16) + j * 128), j > 0);
      wgmma_commit();
      wgmma_wait<0>();
      written(o);
      if (last) release(place.empty_v + 8 * at.slot);
      if (used) store_rows(o, rows, batch, head, mine + row, out SYMBOL_NAMES);
    }
    tile -= TILES;
    at.advance();
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* q, const element_t* k, const element_t* v MASK_PARAMS,
                element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(place.full_k + 8 * i, MASK_STAGE > 0 ? 256 : 128);
      mbarrier_init(place.full_v + 8 * i, 128);
      mbarrier_init(place.empty_k + 8 * i, (MASK_STAGE > 0 ? 128 : 4) * CONSUMERS);
      mbarrier_init(place.empty_v + 8 * i, 4 * CONSUMERS);
    }
    mbarrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x >= 128 * CONSUMERS) {
    if (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
    fill(place, q, k, v MASK_NAMES SYMBOL_NAMES);
  } else {
    if (PRODUCER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    dependency_wait();
    multiply(place MASK_NAMES, out SYMBOL_NAMES);
  }
}
