// Where a multiplying warpgroup stands in the ring.
struct Position {
  int slot;
  uint32_t parity;
};

// Past the tiles of k that another team multiplies.
DEVICE void skip(Position& at, int count) {
  const int to = at.slot + count;
  at.slot = to % STAGES;
  at.parity ^= to / STAGES & 1;
}

// By a multiplying warpgroup: its MT x 64 rows of `count` stages, released as they are done with; the last one is under way.
DEVICE void multiply(float (&acc)[MT][BN / 2], Position& at, uint32_t ring, uint32_t full, uint32_t empty, int group,
                     int count) {
  const uint64_t a = wgmma_operand(ring + first_row(group) * 128);
  const uint64_t b = wgmma_operand(ring + DEEP * A_BYTES);
  int previous = 0;
  for (int t = 0; t < count; ++t) {
    mbarrier_wait(full + 8 * at.slot, at.parity);
    if (!MAPS) fence_async_shared();
    wgmma_fence();
    const int stage = at.slot * (STAGE_BYTES / 16);
#pragma unroll
    for (int d = 0; d < DEEP; ++d) {
#pragma unroll
      for (int k = 0; k < STEPS; ++k) {
#pragma unroll
        for (int i = 0; i < MT; ++i)
          wgmma_step(acc[i], a + (stage + d * (A_BYTES / 16) + i * 512 + k * 2), b + (stage + d * (B_BYTES / 16) + k * 2),
                     t > 0 || d > 0 || k > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (t > 0) release(empty, previous);
    previous = at.slot;
    if (++at.slot == STAGES) at.slot = 0, at.parity ^= 1;
  }
}

// The last tile is done with, too.
DEVICE void multiplied(const Position& at, uint32_t empty) {
  wgmma_wait<0>();
  release(empty, at.slot > 0 ? at.slot - 1 : STAGES - 1);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(PIXELS x, const unsigned char* w ADDED_PARAMS EPILOGUE_PARAMS RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t ring = shared_address(shared);
  const uint32_t full = ring + RING_BYTES, empty = full + 8 * STAGES;
  const uint32_t result_barriers = empty + 8 * STAGES + 16;
  const int split = SPLIT > 1 ? blockIdx.y : 0;
  const int first = split * TILES / SPLIT;
  const int count = (TILES % SPLIT == 0 ? TILES / SPLIT : (split + 1) * TILES / SPLIT - first) / DEEP;
  const int warp = same_for_warp(threadIdx.x / 32), group = warp / 4;
  const Weights weights = {w, ADDED_W};

  // Of a tile that a cluster splits: it has no other.
  const index_t split_row0 = SPLIT > 1 ? tile_of(blockIdx.x / PEERS SYMBOL_NAMES).row * BM : 0;
  const int rows = (int)max(min(M - split_row0, (index_t)BM), (index_t)0);
  const Sums sums = {{rows}, shared + SUMS_AT, empty + 8 * STAGES, split, (int)blockIdx.x % PEERS, PEERS};

  // The weights depend on nothing: request the first stages' before waiting for the kernel that writes the pixels.
  const auto begin = [&] {
#pragma unroll
    for (int s = 0; s < STAGES; ++s) {
      const index_t turn = (blockIdx.x + (SPLIT > 1 ? 0 : s * DEEP / TILES * gridDim.x)) / PEERS;
      if (SPLIT > 1 ? s < count : turn < TURNS)
        request_weights(ring, full, weights, tile_of(turn SYMBOL_NAMES).column,
                        SPLIT > 1 ? first + s * DEEP : s * DEEP % TILES, s);
    }
  };
  const bool begins = warp == 4 * CONSUMERS && elected();
  if (begins) {
#pragma unroll
    for (int s = 0; s < STAGES; ++s) {
      mbarrier_init(full + 8 * s, FILLING);
      mbarrier_init(empty + 8 * s, 4 * TEAM * (SENT_DOWN + SENT_ALONG - 1));
    }
    if (SPLIT > 1) sums.begin();
    for (int b = 0; b < RESULT_BARRIERS; ++b) mbarrier_init(result_barriers + 8 * b, 1);
    mbarrier_init_done();
    if (SPLIT > 1) sums.expect();
    if (!SENT) begin();
  }
  // Peers that send need each other's barriers; blocks that split need them only when they have sums.
  __syncwarp();
  if (SPLIT > 1 || SENT) cluster_arrive_relaxed();
  if (SENT)
    cluster_wait();
  else
    __syncthreads();
  if (SENT && begins) begin();

  if (group == CONSUMERS) {
    if (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
    fill(shared, full, empty, x, ADDED_X, weights, warp - 4 * CONSUMERS, first, count SYMBOL_NAMES);
    __syncwarp();
    if (EARLY) launch_dependents();
    PREFETCH(begins);
    if (SPLIT > 1 && !SENT) cluster_wait();
  } else {
    if (PRODUCER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    dependency_wait();
    const Epilogue epilogue = EPILOGUE;
    Position at = {0, 0};
    int team = 0;
    Results results(shared + STAGES * STAGE_BYTES, result_barriers RESULT_NAMES);
    if (SPLIT == 1) results.begin((index_t)blockIdx.x / PEERS + (PONG ? group / TEAM * (gridDim.x / PEERS) : 0) SYMBOL_NAMES);
    for (index_t turn = blockIdx.x / PEERS; turn < TURNS; turn += gridDim.x / PEERS) {
      const bool mine = !PONG || team == group / TEAM;
      if (++team == TEAMS) team = 0;
      if (!mine) {
        skip(at, count);
        continue;
      }
      const bool last = turn + gridDim.x / PEERS >= TURNS;
      const Tile tile = tile_of(turn SYMBOL_NAMES);
      const index_t row0 = tile.row * BM + first_row(group);
      const int column0 = tile.column * BN;
      float acc[MT][BN / 2];
      if constexpr (SPLIT == 1) {
        // While the other team multiplies.
        results.ask(row0, column0, epilogue SYMBOL_NAMES);
        // In turns, also because a team that runs ahead would take an older phase of full[s] for its own.
        if (PONG && turn >= gridDim.x / PEERS) named_barrier(3 + group / TEAM, 128 * CONSUMERS);
        multiply(acc, at, ring, full, empty, group, count);
        if (PONG && !last) named_barrier_arrive(3 + (group / TEAM ^ 1), 128 * CONSUMERS);
        if (!EARLY && last) launch_dependents();
        multiplied(at, empty);
        results.finish(acc, row0, column0, turn, epilogue SYMBOL_NAMES);
      } else {
        Ending ending;
        ending.ask(0, sums, split_row0, column0, NG, 0, epilogue);
        constexpr int PARCELS = (SPLIT + 4 * CONSUMERS - 1) / (4 * CONSUMERS);
        typename Sums::Parcel parcels[PARCELS];
#pragma unroll
        for (int p = 0; p < PARCELS; ++p) parcels[p] = sums.parcel(shared, warp + p * 4 * CONSUMERS);
        // Every block of the cluster has its barriers.
        if (!SENT) cluster_wait();
        multiply(acc, at, ring, full, empty, group, count);
        if (!EARLY) launch_dependents();
        multiplied(at, empty);
        // Nobody reads the ring any more.
        named_barrier(2, 128 * CONSUMERS);
        put_sums(acc, shared, first_row(group));
        fence_async_shared();
        named_barrier(2, 128 * CONSUMERS);
#pragma unroll
        for (int p = 0; p < PARCELS; ++p) sums.send(parcels[p]);
        ending.finish(sums, shared, split_row0, column0, NG, 0, epilogue);
      }
    }
    if (SPLIT == 1) results.end();
    // Nor may it leave while another still arrives at its barriers.
    if (SENT) cluster_barrier();
  }
}
