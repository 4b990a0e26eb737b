// conv.wgmma: convolution over channels-last tensors as an implicit matrix product on Hopper's tensor cores (wgmma).
//   rows    = output pixels (image, y, x), BM to a block
//   columns = filters, BN to a block
//   k       = (tap, channel), 64 halves to a tile, without padding between taps: a 16-byte chunk lies in one tap
// A ring of STAGES tiles of both operands. The last warpgroup fills it: weights come packed as [column tile][k tile]
// [BN rows][128 bytes], swizzled, so that a tile is one bulk copy; pixels are gathered by cp.async, 16 bytes each, eight
// threads to a row. CONSUMERS warpgroups of MT x 64 rows each multiply. A block takes every gridDim.x-th tile of the
// output, and fills the ring for the next while it finishes one. Or SPLIT blocks of a cluster share one tile's k; their
// sums meet in its shared memory. SHARE blocks of a cluster take tiles below each other: each reads a part of their
// weights from L2 for all of them.
// full[s]: the stage's bytes of weights, one arrival that announces them, and one of each filling thread.
// empty[s]: one arrival of each multiplying warp, of all blocks that get the same weights.

constexpr int THREADS = 128 * (CONSUMERS + 1);
constexpr int TAP_CHUNKS = CG / 8;
constexpr int CHUNKS = TAPS * TAP_CHUNKS;               // 16-byte chunks of k
constexpr int TILES = (CHUNKS + 7) / 8;
constexpr int A_BYTES = BM * 128;
constexpr int B_BYTES = BN * 128;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int MT = BM / 64 / CONSUMERS;
constexpr int COLUMN_TILES = (NG + BN - 1) / BN;
constexpr int SLAB_PITCH = SLAB + 8;                     // of the 16 x SLAB sums that a warp finishes at a time
constexpr int SLAB_BYTES = 16 * SLAB_PITCH * 4;
typedef ClusterSums<BM, BN, SPLIT, 1> Sums;              // of a tile that SPLIT blocks share; this block's lie over the ring
constexpr int OWN_SUM_BYTES = SPLIT == 1 ? 0 : Sums::Own::PART * 4;
constexpr int SUMS_AT = STAGES * STAGE_BYTES > OWN_SUM_BYTES ? STAGES * STAGE_BYTES : OWN_SUM_BYTES;
constexpr int RING_BYTES = SUMS_AT + (SPLIT == 1 ? 4 * CONSUMERS * SLAB_BYTES : Sums::BYTES);

static_assert(CG % 8 == 0, "16-byte chunks of channels");
static_assert(BM % (64 * CONSUMERS) == 0 && BN % 8 == 0 && BN <= 256, "whole wgmma tiles");
static_assert(BN % SLAB == 0 && SLAB % 32 == 0, "whole slabs");
static_assert(SPLIT == 1 || NG % 4 == 0, "sums cross the cluster four at a time");

DEVICE bool inside(unsigned mask, int tap) {
  return DENSE_MASK ? mask >> (tap & 31) & 1 : mask >> tap / KW & mask >> (16 + tap % KW) & 1;
}

// Row tiles, and what the clusters take turns at: SHARE row tiles of one column tile.
#define ROW_TILES ((M + BM - 1) / BM)
#define TURNS ((ROW_TILES + SHARE - 1) / SHARE * COLUMN_TILES)

// By one thread: tile `tile` of k of the weights of `turn` into stage `slot`.
DEVICE void request_weights(uint32_t ring, uint32_t full, const unsigned char* w, index_t turn, int tile, int slot) {
  constexpr int PART = B_BYTES / SHARE;
  const int part = SHARE > 1 ? blockIdx.x % SHARE : 0;
  const unsigned char* const from = w + ((long long)(turn % COLUMN_TILES) * TILES + tile) * B_BYTES + part * PART;
  const uint32_t to = ring + slot * STAGE_BYTES + A_BYTES + part * PART;
  mbarrier_expect(full + 8 * slot, B_BYTES);
  if (SHARE > 1)
    copy_bulk_to_all(to, from, PART, full + 8 * slot, ((1 << SHARE) - 1) << (SPLIT > 1 ? blockIdx.y * SHARE : 0));
  else
    copy_bulk(to, from, PART, full + 8 * slot);
}

// By a multiplying warp: stage `slot` is done with.
DEVICE void release(uint32_t empty, int slot) {
  const int lane = threadIdx.x % 32;
  if (SHARE > 1) {
    if (lane < SHARE) mbarrier_arrive_at(empty + 8 * slot, (SPLIT > 1 ? blockIdx.y * SHARE : 0) + lane);
  } else {
    if (lane == 0) mbarrier_arrive(empty + 8 * slot);
  }
}

// Where chunk `chunk` of tile `tile` of k lies in a window.
struct Place {
  index_t delta;
  int tap;
  bool valid;
};

DEVICE Place find(int tile, int chunk SYMBOL_PARAMS) {
  const bool whole = TAP_CHUNKS % 8 == 0;               // all chunks of a tile in one tap
  const int at = tile * 8 + chunk;
  const int tap = whole ? tile / (TAP_CHUNKS / (whole ? 8 : 1)) : at / TAP_CHUNKS;
  const int channel = (at - tap * TAP_CHUNKS) * 8;
  return {(index_t)((tap / KW * DH * IW + tap % KW * DW) * CHANNELS + channel), tap, CHUNKS % 8 == 0 || at < CHUNKS};
}

// By the filling warpgroup: tiles `first` to `first + count - 1` of k for each tile of the output. The weights of the
// first STAGES are under way.
DEVICE void fill(unsigned char* ring, Window* windows, uint32_t full, uint32_t empty, const element_t* x,
                 const unsigned char* w, int first, int count SYMBOL_PARAMS) {
  const int thread = threadIdx.x - 128 * CONSUMERS;
  const int chunk = thread % 8, row = thread / 8;
  unsigned char* const to = ring + row * 128 + ((chunk ^ (row & 7)) << 4);
  int slot = 0, step = 0;
  uint32_t parity = 1;
  for (index_t turn = blockIdx.x / SHARE; turn < TURNS; turn += gridDim.x / SHARE) {
    const index_t row0 = (turn / COLUMN_TILES * SHARE + blockIdx.x % SHARE) * BM;
    // Pointwise: this thread's rows are a fixed distance apart, and only the last ones may be missing.
    const element_t* pixels = x + (row0 + row) * CHANNELS;
    const int rows = POINTWISE ? (int)max(min((M - row0 - row + 15) / 16, (index_t)16), (index_t)0) : 0;
    Window window[POINTWISE ? 1 : BM / 16];
    if (!POINTWISE) {
      if (step > 0) named_barrier(1, 128);
      for (int i = thread; i < BM; i += 128) windows[i] = locate(row0 + i SYMBOL_NAMES);
      named_barrier(1, 128);
#pragma unroll
      for (int i = 0; i < BM / 16; ++i) window[i] = windows[row + 16 * i];
    }
    dependency_wait();
    Place place = find(first, chunk SYMBOL_NAMES);
    for (int t = 0; t < count; ++t, ++step) {
      if (step >= STAGES) {
        mbarrier_wait(empty + 8 * slot, parity);
        // The warps take turns at this, for none to fall behind.
        if (thread == step % 4 * 32) request_weights(shared_address(ring), full, w, turn, first + t, slot);
      }
      unsigned char* const stage = to + slot * STAGE_BYTES;
#pragma unroll
      for (int i = 0; i < BM / 16; ++i) {
        if (POINTWISE)
          cp_async16(stage + i * 2048, pixels + (place.delta + (index_t)i * 16 * CHANNELS), place.valid && i < rows);
        else
          cp_async16(stage + i * 2048, x + (window[i].offset + place.delta),
                     place.valid && inside(window[i].mask, place.tap));
      }
      cp_async_arrive(full + 8 * slot);
      place = find(first + t + 1, chunk SYMBOL_NAMES);
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// Where a multiplying warpgroup stands in the ring.
struct Position {
  int slot;
  uint32_t parity;
};

// By a multiplying warpgroup: its MT x 64 rows of `count` tiles, released as they are done with; the last one is under way.
DEVICE void multiply(float (&acc)[MT][BN / 2], Position& at, uint32_t ring, uint32_t full, uint32_t empty, int group,
                     int count) {
  const uint64_t a = wgmma_operand(ring + group * MT * 8192), b = wgmma_operand(ring + A_BYTES);
  int previous = 0;
  for (int t = 0; t < count; ++t) {
    mbarrier_wait(full + 8 * at.slot, at.parity);
    fence_async_shared();
    wgmma_fence();
    const int stage = at.slot * (STAGE_BYTES / 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < MT; ++i) wgmma_step(acc[i], a + (stage + i * 512 + k * 2), b + (stage + k * 2), t > 0 || k > 0);
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

// Elements that one thread takes through the epilogue: whole 16-byte groups of a row where the filters allow.
constexpr int WIDTH = NG % 8 == 0 ? 8 : NG % 4 == 0 ? 4 : NG % 2 == 0 ? 2 : 1;

// SPLIT == 1, by a warp: its rows (16 of every 64 from `row0`) of a tile, a slab at a time, without waiting for other
// warps. What the first AHEAD slabs read besides is asked for before the tile's sums are made, then one slab after another.
struct Slab {
  static constexpr int ROW_ITEMS = SLAB / WIDTH, ITEMS = 16 * ROW_ITEMS / 32, COUNT = MT * (BN / SLAB);
  index_t to[ITEMS];
  typename Epilogue::template Reads<WIDTH> reads[ITEMS];

  DEVICE void ask(int slab, index_t row0, int column0, const Epilogue& epilogue SYMBOL_PARAMS) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int b = 0; b < ITEMS; ++b) {
      const int row = (b * 32 + lane) / ROW_ITEMS, column = (b * 32 + lane) % ROW_ITEMS * WIDTH;
      const index_t m = row0 + slab / (BN / SLAB) * 64 + row;
      const int n = column0 + slab % (BN / SLAB) * SLAB + column;
      to[b] = m < M && (NG % BN == 0 || n < NG) ? m * FILTERS + n : -1;
      if (to[b] >= 0) reads[b] = epilogue.template read<WIDTH>(to[b]);
    }
  }

  DEVICE void finish(const float (&acc)[MT][BN / 2], int slab, float* sums, const Epilogue& epilogue) const {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < SLAB / 8; ++j) {
      const float* const from = acc[slab / (BN / SLAB)] + (slab % (BN / SLAB) * (SLAB / 8) + j) * 4;
      float* const at = sums + lane / 4 * SLAB_PITCH + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(from[0], from[1]);
      *reinterpret_cast<float2*>(at + 8 * SLAB_PITCH) = make_float2(from[2], from[3]);
    }
    __syncwarp();
#pragma unroll
    for (int b = 0; b < ITEMS; ++b) {
      const int row = (b * 32 + lane) / ROW_ITEMS, column = (b * 32 + lane) % ROW_ITEMS * WIDTH;
      acc_t sum[WIDTH] = {};
      add_sums<WIDTH>(sum, sums + row * SLAB_PITCH + column);
      if (to[b] >= 0) epilogue.template store<WIDTH>(sum, to[b], reads[b]);
    }
  }
};

// SPLIT > 1: each block of a cluster finishes some rows of a tile, AHEAD items of a thread at a time.
typedef Finish<Sums, BN, WIDTH, 128 * CONSUMERS, AHEAD> Ending;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* x, const unsigned char* w EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t ring = shared_address(shared);
  const uint32_t full = ring + RING_BYTES, empty = full + 8 * STAGES;
  Window* const windows = reinterpret_cast<Window*>(shared + RING_BYTES + 16 * STAGES + 16);
  const int split = SPLIT > 1 ? blockIdx.y : 0;
  const int first = split * TILES / SPLIT;
  const int count = TILES % SPLIT == 0 ? TILES / SPLIT : (split + 1) * TILES / SPLIT - first;
  const int group = threadIdx.x / 128;

  // Of a tile that a cluster splits: it has no other.
  const index_t split_row0 = (index_t)(blockIdx.x / SHARE / COLUMN_TILES * SHARE + blockIdx.x % SHARE) * BM;
  const int rows = (int)max(min(M - split_row0, (index_t)BM), (index_t)0);
  const Sums sums = {{rows}, shared + SUMS_AT, empty + 8 * STAGES, split, (int)blockIdx.x % SHARE, SHARE};

  // The weights depend on nothing: request the first stages' before waiting for the kernel that writes the pixels.
  const auto begin = [&] {
#pragma unroll
    for (int s = 0; s < STAGES; ++s) {
      const index_t turn = (blockIdx.x + (SPLIT > 1 ? 0 : s / TILES * gridDim.x)) / SHARE;
      if (SPLIT > 1 ? s < count : turn < TURNS) request_weights(ring, full, w, turn, SPLIT > 1 ? first + s : s % TILES, s);
    }
  };
  const bool begins = threadIdx.x == 128 * CONSUMERS;
  if (begins) {
#pragma unroll
    for (int s = 0; s < STAGES; ++s) {
      mbarrier_init(full + 8 * s, 129);
      mbarrier_init(empty + 8 * s, 4 * CONSUMERS * SHARE);
    }
    if (SPLIT > 1) sums.begin();
    mbarrier_init_done();
    if (SPLIT > 1) sums.expect();
    if (SHARE == 1) begin();
  }
  // Blocks that share need each other's barriers; those that split need them only when they have sums.
  __syncwarp();
  if (SPLIT * SHARE > 1) cluster_arrive_relaxed();
  if (SHARE > 1)
    cluster_wait();
  else
    __syncthreads();
  if (SHARE > 1 && begins) begin();
  if (EARLY) launch_dependents();

  if (group == CONSUMERS) {
    if (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
    fill(shared, windows, full, empty, x, w, first, count SYMBOL_NAMES);
    if (SPLIT > 1 && SHARE == 1) cluster_wait();
  } else {
    if (PRODUCER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    dependency_wait();
    const Epilogue epilogue = EPILOGUE;
    Position at = {0, 0};
    for (index_t turn = blockIdx.x / SHARE; turn < TURNS; turn += gridDim.x / SHARE) {
      const index_t row0 = (turn / COLUMN_TILES * SHARE + blockIdx.x % SHARE) * BM + group * MT * 64;
      const int column0 = turn % COLUMN_TILES * BN;
      float acc[MT][BN / 2];
      const bool last = turn + gridDim.x / SHARE >= TURNS;
      if constexpr (SPLIT == 1) {
        const int warp = threadIdx.x / 32;
        const index_t warp_row0 = row0 + warp % 4 * 16;
        float* const slab_sums = reinterpret_cast<float*>(shared + SUMS_AT + warp * SLAB_BYTES);
        Slab slabs[AHEAD];
#pragma unroll
        for (int s = 0; s < AHEAD && s < Slab::COUNT; ++s) slabs[s].ask(s, warp_row0, column0, epilogue SYMBOL_NAMES);
        multiply(acc, at, ring, full, empty, group, count);
        if (!EARLY && last) launch_dependents();
        multiplied(at, empty);
#pragma unroll
        for (int s = 0; s < Slab::COUNT; ++s) {
          slabs[s % AHEAD].finish(acc, s, slab_sums, epilogue);
          if (s + AHEAD < Slab::COUNT) slabs[s % AHEAD].ask(s + AHEAD, warp_row0, column0, epilogue SYMBOL_NAMES);
        }
      } else {
        Ending ending;
        ending.ask(0, sums, split_row0, column0, NG, 0, epilogue);
        multiply(acc, at, ring, full, empty, group, count);
        if (!EARLY) launch_dependents();
        multiplied(at, empty);
        // Nobody reads the ring any more, and every block of the cluster has its barriers.
        named_barrier(2, 128 * CONSUMERS);
#pragma unroll
        for (int i = 0; i < MT; ++i) {
#pragma unroll
          for (int j = 0; j < BN / 8; ++j)
            sums.put(shared, 0, (group * MT + i) * 64 + threadIdx.x % 128 / 32 * 16, j * 8, acc[i] + 4 * j);
        }
        fence_async_shared();
        if (SHARE == 1) cluster_wait();
        named_barrier(2, 128 * CONSUMERS);
        sums.send(shared, threadIdx.x);
        ending.finish(sums, shared, split_row0, column0, NG, 0, epilogue);
      }
    }
    // Nor may it leave while another still arrives at its barriers.
    if (SHARE > 1) cluster_barrier();
  }
}
