// attention.wgmma: softmax(scale * q * k^T + mask) * v on Hopper's tensor cores, for any number of keys. A block takes
// BLOCK_Q queries of a head at a time, 64 for each of CONSUMERS warpgroups, and walks their keys in tiles of KEYS from the
// last to the first. The last warpgroup fills rings of STAGES tiles of keys and of values. A multiplying warpgroup asks
// for the next tile's scores and this tile's values at once and takes powers of the former while the latter are under way;
// the warpgroups take turns at asking, so that one's powers are taken while another's products are.
// SHARE blocks of a cluster take queries below each other; each asks for a part of the keys and values, which all of them get.
// full: one arrival of each filling thread, or of the one that asks the copy engine, and one more of each where they store a
// mask. empty: one of each multiplying warp of all blocks that get the same, or of each of its threads where they read a mask.
// Queries are each warpgroup's own, so that one may begin with the next item while another still finishes the last.

constexpr int BLOCK_Q = 64 * CONSUMERS;
constexpr int THREADS = 128 * (CONSUMERS + 1);
constexpr int Q_BYTES = panel_bytes(64, DIM), K_BYTES = panel_bytes(KEYS, DIM), V_BYTES = panel_bytes(KEYS, DIM_V);
#ifdef MASK
constexpr int MASK_STAGE = MASK_BY_KEY ? KEYS : 0;
#else
constexpr int MASK_STAGE = 0;
#endif
static_assert(KEYS % 16 == 0 && KEYS <= 256 && DIM % 16 == 0 && DIM_V % 16 == 0, "the tiles are of 16");
static_assert(SHARE == 1 || (MAPS && !CAUSAL && MASK_STAGE == 0 && KEYS % (8 * SHARE) == 0), "the copy engine sends the same to all");

// A block's part of the work: queries of one head.
struct Item {
  index_t both, q0;   // batch * HEADS + head, and the first query
  int tiles;          // of keys
};

#define TILES_Q ((SIZE_Q + SHARE * BLOCK_Q - 1) / (SHARE * BLOCK_Q))

// The number of this cluster's n-th item, which may be one past the last. TOGETHER heads, whose keys L2 holds, are done at the
// same time, the last queries first: with a causal mask those take longest. Every other turn goes through the blocks
// backwards, for each block to get as much as others.
DEVICE index_t number(index_t n) {
  const index_t all = gridDim.x / SHARE, mine = blockIdx.x / SHARE;
  return n * all + (n % 2 ? all - 1 - mine : mine);
}

#define ITEMS (SIZE_BATCH * HEADS * TILES_Q)

DEVICE Item find(index_t id SYMBOL_PARAMS) {
  Item item;
  const index_t first = id / (TOGETHER * TILES_Q) * TOGETHER, rest = id - first * TILES_Q;
  const index_t left = SIZE_BATCH * HEADS - first, beside = left < TOGETHER ? left : TOGETHER;
  item.both = first + rest % beside;
  item.q0 = ((TILES_Q - 1 - rest / beside) * SHARE + blockIdx.x % SHARE) * BLOCK_Q;
  index_t keys = SIZE_K;
  if (CAUSAL) {
    const index_t seen = (item.q0 + BLOCK_Q < SIZE_Q ? item.q0 + BLOCK_Q : SIZE_Q) + SIZE_K - SIZE_Q;
    keys = seen < 0 ? 0 : seen < keys ? seen : keys;
  }
  item.tiles = (int)((keys + KEYS - 1) / KEYS);
  return item;
}

// Where everything lies in shared memory.
struct Place {
  unsigned char *q, *k, *v;
  float* mask;
  uint32_t full_q, empty_q, full_k, empty_k, full_v, empty_v;
  DEVICE Place(unsigned char* shared) {
    q = shared, k = q + CONSUMERS * Q_BYTES, v = k + STAGES * K_BYTES;
    mask = reinterpret_cast<float*>(v + STAGES * V_BYTES);
    full_k = shared_address(mask + STAGES * MASK_STAGE);
    empty_k = full_k + 8 * STAGES, full_v = empty_k + 8 * STAGES, empty_v = full_v + 8 * STAGES;
    full_q = empty_v + 8 * STAGES, empty_q = full_q + 8 * CONSUMERS;
  }
};

DEVICE void fill(const Place& place, Operand q, Operand k, Operand v MASK_PARAMS SYMBOL_PARAMS) {
  // Masks are stored by all of them; the copy engine is asked by one.
  if (MAPS && MASK_STAGE == 0 && same_for_warp(threadIdx.x / 32) != 4 * CONSUMERS) return;
  const bool asking = asks(128 * CONSUMERS);
  Position<STAGES> at_k = {0, 1}, at_v = {0, 1};
  uint32_t parity_q = 1;
  dependency_wait();
  for (index_t n = 0; number(n) < ITEMS; ++n) {
    const Item item = find(number(n) SYMBOL_NAMES);
    const index_t batch = item.both / HEADS, head = item.both % HEADS, head_kv = head * KV_HEADS / HEADS;
    const Head of_q = HEAD_OF(q, Q, batch, head, SIZE_Q);
    const Head of_k = HEAD_OF(k, K, batch, head_kv, SIZE_K), of_v = HEAD_OF(v, V, batch, head_kv, SIZE_K);
    const auto fill_queries = [&](int group) {
      mbarrier_wait(place.empty_q + 8 * group, parity_q);
      if (!asking) return;
      fetch<64, DIM, 64>(place.q + group * Q_BYTES, of_q, item.q0 + group * 64, place.full_q + 8 * group);
      fetched(place.full_q + 8 * group, Q_BYTES);
    };
    fill_queries(0);
#pragma unroll 1
    for (int t = item.tiles; t >= 0; --t) {
      if (t > 0) {
        const index_t first = (index_t)(t - 1) * KEYS;
        mbarrier_wait(place.empty_k + 8 * at_k.slot, at_k.parity);
        if (asking) {
          fetch<KEYS, DIM, KEYS, SHARE>(place.k + at_k.slot * K_BYTES, of_k, first, place.full_k + 8 * at_k.slot);
          fetched(place.full_k + 8 * at_k.slot, K_BYTES);
        }
#ifdef MASK
        if (MASK_BY_KEY) {
          const index_t from = MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD;
          for (int i = threadIdx.x % 128; i < KEYS; i += 128)
            place.mask[at_k.slot * MASK_STAGE + i] = first + i < SIZE_K ? mask_value(mask[from + (first + i) * MASK_COLUMN]) : 0.f;
          mbarrier_arrive(place.full_k + 8 * at_k.slot);
        }
#endif
        at_k.advance();
      }
      if (t == item.tiles) {
        // The first warpgroup begins without the others' queries.
#pragma unroll 1
        for (int group = 1; group < CONSUMERS; ++group) fill_queries(group);
        parity_q ^= 1;
      } else {
        const index_t first = (index_t)t * KEYS;
        mbarrier_wait(place.empty_v + 8 * at_v.slot, at_v.parity);
        if (asking) {
          fetch<KEYS, DIM_V, KEYS, SHARE>(place.v + at_v.slot * V_BYTES, of_v, first, place.full_v + 8 * at_v.slot);
          fetched(place.full_v + 8 * at_v.slot, V_BYTES);
        }
        at_v.advance();
      }
    }
  }
  all_fetched();
}

// By a multiplying warp: keys or values that it has read may be overwritten, in all blocks that get the same.
DEVICE void release_shared(uint32_t empty) {
  if (SHARE == 1)
    release(empty);
  else if (threadIdx.x % 32 < SHARE)
    mbarrier_arrive_at(empty, threadIdx.x % 32);
}

// Barriers at which the warpgroups take turns: `group` waits for its turn, and gives it to the next.
DEVICE void await_turn(int group) {
  if (CONSUMERS > 1) named_barrier(2 + group, 256);
}
DEVICE void pass_turn(int group) {
  if (CONSUMERS > 1) named_barrier_arrive(2 + (group + 1 == CONSUMERS ? 0 : group + 1), 256);
}

DEVICE void multiply(const Place& place MASK_PARAMS, element_t* out SYMBOL_PARAMS) {
  const int group = same_for_warp(threadIdx.x / 128);
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const uint64_t queries = wgmma_operand(shared_address(place.q) + group * Q_BYTES);
  const uint64_t keys = wgmma_operand(shared_address(place.k)), values = values_operand<KEYS>(shared_address(place.v));
  Position<STAGES> at_k = {0, 0}, at_v = {0, 0};
  uint32_t parity_q = 0;
  float s[KEYS / 2], o[DIM_V / 2];
  uint32_t p[KEYS / 16][4];
#pragma unroll 1
  for (index_t n = 0; number(n) < ITEMS; ++n) {
    const Item item = find(number(n) SYMBOL_NAMES);
    if (number(n + 1) >= ITEMS) launch_dependents();
    Softmax rows;
    const index_t q0 = item.q0 + group * 64;
    const auto take_scores = [&](int t) {
      written(s);
      if (t == 0) release(place.empty_q + 8 * group);
      if (MASK_STAGE == 0) release_shared(place.empty_k + 8 * at_k.slot);
      const Corner at = {item.both / HEADS, item.both % HEADS, q0 + row, (index_t)t * KEYS + lane % 4 * 2};
      const bool edge = (index_t)(t + 1) * KEYS > (CAUSAL ? min(q0 + 1 + SIZE_K - SIZE_Q, (index_t)SIZE_K) : (index_t)SIZE_K);
      mask_scores<KEYS>(s, at, edge, place.mask + at_k.slot * MASK_STAGE + lane % 4 * 2 MASK_NAMES SYMBOL_NAMES);
      // Every lane has read a part of the mask.
      if (MASK_STAGE > 0) mbarrier_arrive(place.empty_k + 8 * at_k.slot);
      at_k.advance();
    };
    const auto ask_values = [&](bool add) {
      mbarrier_wait(place.full_v + 8 * at_v.slot, at_v.parity);
      if (!MAPS) fence_async_shared();
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j)
        wgmma_values(o, p[j], values + (at_v.slot * (V_BYTES / 16) + j * 128), add || j > 0);
      wgmma_commit();
    };
    const auto ask = [&] {
      mbarrier_wait(place.full_k + 8 * at_k.slot, at_k.parity);
      if (!MAPS) fence_async_shared();
    };
    mbarrier_wait(place.full_q + 8 * group, parity_q);
    parity_q ^= 1;
    int t = item.tiles - 1;
    if (t >= 0) {
      if (t > 0 && group == CONSUMERS - 1) pass_turn(group);
      ask();
      ask_scores<64, KEYS, KEYS>(s, queries, keys + at_k.slot * (K_BYTES / 16));
      wgmma_wait<0>();
      take_scores(t);
      rows.take(s);
      pack_scores<KEYS>(p, s);
      bool add = false;
#pragma unroll 1
      for (--t; t >= 0; --t) {
        ask();
        await_turn(group);
        ask_scores<64, KEYS, KEYS>(s, queries, keys + at_k.slot * (K_BYTES / 16));
        ask_values(add);
        if (t > 0 || group < CONSUMERS - 1) pass_turn(group);
        wgmma_wait<1>();
        take_scores(t);
        // The branch stands before the wait: the compiler moves no powers from before the one to behind the other.
        if (rows.take(s)) {
          wgmma_wait<0>();
          written(o);
#pragma unroll
          for (int i = 0; i < DIM_V / 2; ++i) o[i] *= rows.shrink[i / 2 % 2];
        }
        wgmma_wait<0>();
        written(o);
        release_shared(place.empty_v + 8 * at_v.slot);
        at_v.advance();
        pack_scores<KEYS>(p, s);
        add = true;
      }
      ask_values(add);
      wgmma_wait<0>();
      written(o);
      release_shared(place.empty_v + 8 * at_v.slot);
      at_v.advance();
    } else {
      release(place.empty_q + 8 * group);
#pragma unroll
      for (int i = 0; i < DIM_V / 2; ++i) o[i] = 0.f;
    }
    store_rows(o, rows, item.both / HEADS, item.both % HEADS, q0 + row, out SYMBOL_NAMES);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(OPERAND q, OPERAND k, OPERAND v MASK_PARAMS, element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Place place(shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < CONSUMERS; ++i) {
      mbarrier_init(place.full_q + 8 * i, FILLING);
      mbarrier_init(place.empty_q + 8 * i, 4);
    }
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(place.full_k + 8 * i, FILLING + (MASK_STAGE > 0 ? 128 : 0));
      mbarrier_init(place.full_v + 8 * i, FILLING);
      mbarrier_init(place.empty_k + 8 * i, (MASK_STAGE > 0 ? 128 : 4) * CONSUMERS * SHARE);
      mbarrier_init(place.empty_v + 8 * i, 4 * CONSUMERS * SHARE);
    }
    mbarrier_init_done();
    prefetch_maps(q, k, v);
  }
  if (SHARE > 1) {
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  } else {
    __syncthreads();
  }
  if (threadIdx.x >= 128 * CONSUMERS) {
    if (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
    fill(place, q, k, v MASK_NAMES SYMBOL_NAMES);
    PREFETCH(threadIdx.x == 128 * CONSUMERS);
  } else {
    if (PRODUCER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    dependency_wait();
    multiply(place MASK_NAMES, out SYMBOL_NAMES);
  }
  // Nor may a block leave while another still arrives at its barriers.
  if (SHARE > 1) cluster_barrier();
}
