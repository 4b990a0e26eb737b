// attention.heads: softmax(scale * q * k^T + mask) * v on Hopper's tensor cores, of many heads whose keys fit in shared memory. A
// block walks over heads; its last warpgroup fills a ring of STAGES whole heads, so that the next one arrives while this one is
// multiplied. Each of CONSUMERS warpgroups takes every CONSUMERS-th tile of 64 queries, counted on from head to head, and all KEYS
// of it at once, in PARTS products: no sums are rescaled, and heads whose tiles do not share out evenly keep every warpgroup busy
// all the same. TAIL queries behind the last whole tile, at most eight, are the filling warpgroup's.
// full: one arrival of each filling thread, or of the one that asks the copy engine, and one more of each where they store a
// mask. empty: one of each multiplying warp and head, of each thread where it reads a mask, also of those that have no tile of
// it, so that none of them falls behind by a whole round.

constexpr int THREADS = 128 * (CONSUMERS + 1);
constexpr int ROWS_Q = 64 * TILES + (TAIL > 0 ? 16 : 0);
constexpr int Q_BYTES = panel_bytes(ROWS_Q, DIM), K_BYTES = panel_bytes(KEYS, DIM), V_BYTES = panel_bytes(KEYS, DIM_V);
#ifdef MASK
constexpr int MASK_STAGE = MASK_BY_KEY ? KEYS : 0;
#else
constexpr int MASK_STAGE = 0;
#endif
static_assert(KEYS % 16 == 0 && KEYS <= 256 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");
static_assert(KEYS / PARTS % 8 == 0, "a product's keys lie in eights");
static_assert(QUERIES % 16 == 0 && QUERIES <= ROWS_Q && QUERIES > ROWS_Q - 64, "the last tile has a query");
constexpr int POWER_PANELS = TAIL > 0 ? (KEYS + 63) / 64 : 0;   // of 64 keys of a tail's powers
static_assert(TAIL == 0 || (TAIL <= 8 && MAPS && !CAUSAL && MASK_STAGE == 0 && DIM_V % 64 == 0),
              "a warpgroup that has time and sees all keys");

// The number of this block's n-th head: the last come first, since whatever has made the operands is likely to have made those
// last, and L2 still has them. Below zero past the end.
#define NUMBER(n) (SIZE_BATCH * HEADS - 1 - (index_t)blockIdx.x - (n) * (index_t)gridDim.x)

// Where everything lies in shared memory.
struct Place {
  unsigned char *q, *k, *v, *powers;
  float *tails, *mask;
  uint32_t full_k, empty_k, full_v, empty_v;   // the queries come with the keys
  DEVICE Place(unsigned char* shared) {
    q = shared, k = q + STAGES * Q_BYTES, v = k + STAGES * K_BYTES;
    powers = v + STAGES * V_BYTES, tails = reinterpret_cast<float*>(powers + POWER_PANELS * 1024);
    mask = tails + (TAIL > 0 ? 64 : 0);
    full_k = shared_address(mask + STAGES * MASK_STAGE);
    empty_k = full_k + 8 * STAGES, full_v = empty_k + 8 * STAGES, empty_v = full_v + 8 * STAGES;
  }
};

#if TAIL
// By the filling warpgroup: the TAIL queries of the head at `slot`. Its scores are keys by queries, 64 by 8 to a product, and its
// results dimensions by queries.
DEVICE void multiply_tail(const Place& place, int slot, index_t batch, index_t head, element_t* out SYMBOL_PARAMS) {
  const int lane = threadIdx.x % 32, warp = same_for_warp(threadIdx.x / 32 % 4);
  const uint64_t keys = wgmma_operand(shared_address(place.k)) + slot * (K_BYTES / 16);
  const uint64_t queries = wgmma_operand(shared_address(place.q)) + slot * (Q_BYTES / 16) + TILES * 512;
  const uint64_t values = values_operand<KEYS>(shared_address(place.v)) + slot * (V_BYTES / 16);
  const uint64_t powers = wgmma_operand(shared_address(place.powers));
  float s[POWER_PANELS][4], o[DIM_V / 64][4];
  wgmma_fence();
#pragma unroll
  for (int b = 0; b < POWER_PANELS; ++b) {
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i)
      wgmma_step(s[b], keys + (b * 512 + i / 4 * (KEYS * 8) + i % 4 * 2), queries + (i / 4 * (ROWS_Q * 8) + i % 4 * 2),
                 i > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int b = 0; b < POWER_PANELS; ++b) written(s[b]);
  release(place.empty_k + 8 * slot);
  // This thread has keys lane / 4 and 8 more of each 16, of queries lane % 4 * 2 and the next. Warps have 16 of each 64 keys.
  float base[2], sum[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    float top = -INFINITY;
#pragma unroll
    for (int b = 0; b < POWER_PANELS; ++b) {
#pragma unroll
      for (int e = c; e < 4; e += 2) {
        if (b * 64 + warp * 16 + e / 2 * 8 + lane / 4 >= SIZE_K) s[b][e] = -INFINITY;
        top = fmaxf(top, s[b][e]);
      }
    }
#pragma unroll
    for (int by = 4; by < 32; by *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, by));
    base[c] = top;
  }
  float2* const tops = reinterpret_cast<float2*>(place.tails) + lane % 4;
  float2* const sums = tops + 16;
  if (lane < 4) tops[warp * 4] = make_float2(base[0], base[1]);
  named_barrier(1, 128);
#pragma unroll
  for (int w = 0; w < 4; ++w) base[0] = fmaxf(base[0], tops[w * 4].x), base[1] = fmaxf(base[1], tops[w * 4].y);
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    base[c] = base[c] == -INFINITY ? 0.f : base[c] * FACTOR;
    sum[c] = 0.f;
#pragma unroll
    for (int b = 0; b < POWER_PANELS; ++b) {
#pragma unroll
      for (int e = c; e < 4; e += 2) {
        s[b][e] = exp2_fast(s[b][e] * FACTOR - base[c]);
        sum[c] += s[b][e];
      }
    }
#pragma unroll
    for (int by = 4; by < 32; by *= 2) sum[c] += __shfl_xor_sync(0xffffffffu, sum[c], by);
  }
  if (lane < 4) sums[warp * 4] = make_float2(sum[0], sum[1]);
  // Powers are queries by keys in shared memory.
#pragma unroll
  for (int b = 0; b < POWER_PANELS; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t two = movmatrix_trans(pack2<element_t>(s[b][half * 2], s[b][half * 2 + 1]));
      unsigned char* const row = place.powers + b * 1024 + lane / 4 * 128;
      *reinterpret_cast<uint32_t*>(row + ((warp * 2 + half ^ lane / 4) & 7) * 16 + lane % 4 * 4) = two;
    }
  }
  fence_async_shared();
  named_barrier(1, 128);
  wgmma_fence();
#pragma unroll
  for (int j = 0; j < KEYS / 16; ++j) {
#pragma unroll
    for (int d = 0; d < DIM_V / 64; ++d)
      wgmma_across(o[d], values + (d * (KEYS * 8) + j * 128), powers + (j / 4 * 64 + j % 4 * 2), j > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int d = 0; d < DIM_V / 64; ++d) written(o[d]);
  release(place.empty_v + 8 * slot);
  float all[2] = {0.f, 0.f};
#pragma unroll
  for (int w = 0; w < 4; ++w) all[0] += sums[w * 4].x, all[1] += sums[w * 4].y;
  const float factor[2] = {pw_quotient(1.f, all[0]), pw_quotient(1.f, all[1])};
  const index_t y = 64 * TILES + lane / 4;
  element_t* const to = out + row_of(batch, head, y SYMBOL_NAMES) * DIM_V + warp * 16 + lane % 4 * 2;
#pragma unroll
  for (int d = 0; d < DIM_V / 64; ++d) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t two = movmatrix_trans(pack2<element_t>(o[d][half * 2] * factor[0], o[d][half * 2 + 1] * factor[1]));
      if (y < SIZE_Q) *reinterpret_cast<uint32_t*>(to + d * 64 + half * 8) = two;
    }
  }
}
#endif

DEVICE void fill(const Place& place, Operand q, Operand k, Operand v MASK_PARAMS, element_t* out SYMBOL_PARAMS) {
  // All of them store masks, or take the tails.
  if (MAPS && MASK_STAGE == 0 && TAIL == 0 && same_for_warp(threadIdx.x / 32) != 4 * CONSUMERS) return;
  const bool asking = asks(128 * CONSUMERS);
  Position<STAGES> at = {0, 1}, at_tail = {0, 0};
  dependency_wait();
#pragma unroll 1
  for (index_t n = 0; NUMBER(n) >= 0; ++n) {
    const index_t batch = NUMBER(n) / HEADS, head = NUMBER(n) % HEADS, head_kv = head * KV_HEADS / HEADS;
    mbarrier_wait(place.empty_k + 8 * at.slot, at.parity);
    if (asking) {
      fetch<ROWS_Q, DIM, QUERIES>(place.q + at.slot * Q_BYTES, HEAD_OF(q, Q, batch, head, SIZE_Q), 0, place.full_k + 8 * at.slot);
      fetch<KEYS, DIM, KEYS>(place.k + at.slot * K_BYTES, HEAD_OF(k, K, batch, head_kv, SIZE_K), 0, place.full_k + 8 * at.slot);
      fetched(place.full_k + 8 * at.slot, panel_bytes(QUERIES, DIM) + K_BYTES);
    }
#ifdef MASK
    if (MASK_BY_KEY) {
      const index_t from = MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD;
      for (int i = threadIdx.x % 128; i < KEYS; i += 128)
        place.mask[at.slot * MASK_STAGE + i] = i < SIZE_K ? mask_value(mask[from + i * MASK_COLUMN]) : 0.f;
      mbarrier_arrive(place.full_k + 8 * at.slot);
    }
#endif
    mbarrier_wait(place.empty_v + 8 * at.slot, at.parity);
    if (asking) {
      fetch<KEYS, DIM_V, KEYS>(place.v + at.slot * V_BYTES, HEAD_OF(v, V, batch, head_kv, SIZE_K), 0, place.full_v + 8 * at.slot);
      fetched(place.full_v + 8 * at.slot, V_BYTES);
    }
    at.advance();
    // The tail of the head that is the next to make room; and of all that are left, when there is no next.
#if TAIL
    __syncwarp();
    index_t tail = n - (STAGES - 1);
#pragma unroll 1
    for (const index_t end = NUMBER(n + 1) < 0 ? n : tail; tail <= end; ++tail) {
      if (tail < 0) continue;
      mbarrier_wait(place.full_k + 8 * at_tail.slot, at_tail.parity);
      mbarrier_wait(place.full_v + 8 * at_tail.slot, at_tail.parity);
      multiply_tail(place, at_tail.slot, NUMBER(tail) / HEADS, NUMBER(tail) % HEADS, out SYMBOL_NAMES);
      at_tail.advance();
    }
#endif
  }
  all_fetched();
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
    if (!MAPS) fence_async_shared();
    if (TILES < CONSUMERS && tile >= TILES) {
      mbarrier_wait(place.full_v + 8 * at.slot, at.parity);
      done_with_keys(place.empty_k + 8 * at.slot);
      release(place.empty_v + 8 * at.slot);
    }
#pragma unroll 1
    for (; tile < TILES; tile += CONSUMERS) {
      // Known to be the same for the warp, where operands of products are found from them.
      const int stage = same_for_warp(at.slot), mine = same_for_warp(tile) * 64;
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
                                               queries + (stage * (Q_BYTES / 16) + mine * 8),
                                               keys + (stage * (K_BYTES / 16) + part * (KEYS / PARTS * 8)));
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
      if (!MAPS) fence_async_shared();
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) wgmma_values(o, p[j], values + (stage * (V_BYTES / 16) + j * 128), j > 0);
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
    KERNEL_NAME(OPERAND q, OPERAND k, OPERAND v MASK_PARAMS, element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(place.full_k + 8 * i, FILLING + (MASK_STAGE > 0 ? 128 : 0));
      mbarrier_init(place.full_v + 8 * i, FILLING);
      mbarrier_init(place.empty_k + 8 * i, (MASK_STAGE > 0 ? 128 : 4) * CONSUMERS + (TAIL > 0 ? 4 : 0));
      mbarrier_init(place.empty_v + 8 * i, 4 * CONSUMERS + (TAIL > 0 ? 4 : 0));
    }
    mbarrier_init_done();
    prefetch_maps(q, k, v);
  }
  __syncthreads();
  if (threadIdx.x >= 128 * CONSUMERS) {
    if (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
    fill(place, q, k, v MASK_NAMES, out SYMBOL_NAMES);
  } else {
    if (PRODUCER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    dependency_wait();
    multiply(place MASK_NAMES, out SYMBOL_NAMES);
  }
}
