// Sums of a tile on their way from accumulators to the epilogue, through shared memory.

// Adds to `sum` the WIDTH floats at `from`, aligned to 16 bytes where WIDTH allows. Of eight, every other four threads read
// the upper half first, for all banks to be busy.
template <int WIDTH> DEVICE void add_sums(acc_t (&sum)[WIDTH], const float* from) {
  if constexpr (WIDTH == 8) {
    const int swap = threadIdx.x & 4;
    const float4 v = *reinterpret_cast<const float4*>(from + swap), u = *reinterpret_cast<const float4*>(from + (swap ^ 4));
    sum[0] += swap ? u.x : v.x, sum[1] += swap ? u.y : v.y, sum[2] += swap ? u.z : v.z, sum[3] += swap ? u.w : v.w;
    sum[4] += swap ? v.x : u.x, sum[5] += swap ? v.y : u.y, sum[6] += swap ? v.z : u.z, sum[7] += swap ? v.w : u.w;
  } else if constexpr (WIDTH == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  } else {
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) sum[e] += from[e];
  }
}

// A tile of ROWS x COLUMNS, of whose sums a block has PLANES parts: over what its threads are done with, they meet in its
// shared memory.
template <int ROWS, int COLUMNS, int PLANES> struct BlockSums {
  static constexpr int MOST = ROWS;
  static constexpr int PITCH = COLUMNS + 8;                   // floats in a row; 8 more keep conflicts away
  static constexpr int PART = ROWS * PITCH;

  int rows;   // that exist

  DEVICE int first() const { return 0; }
  DEVICE int mine() const { return rows; }
  // By a warp: a 16 x 8 tile as an mma leaves it.
  DEVICE void put(unsigned char* shared, int plane, int row, int column, const float* d) const {
    const int lane = threadIdx.x % 32;
    float* const to = reinterpret_cast<float*>(shared) + plane * PART + (row + lane / 4) * PITCH + column + lane % 4 * 2;
    *reinterpret_cast<float2*>(to) = make_float2(d[0], d[1]);
    *reinterpret_cast<float2*>(to + 8 * PITCH) = make_float2(d[2], d[3]);
  }
  DEVICE void wait() const { __syncthreads(); }
  template <int WIDTH> DEVICE void add(acc_t (&sum)[WIDTH], const unsigned char* shared, int row, int column) const {
    const float* const from = reinterpret_cast<const float*>(shared) + row * PITCH + column;
#pragma unroll
    for (int p = 0; p < PLANES; ++p) add_sums<WIDTH>(sum, from + p * PART);
  }
};

#if __CUDA_ARCH__ >= 900
// A tile of ROWS x COLUMNS, of whose sums each of BLOCKS blocks of a cluster has PLANES parts. Every block finishes
// some of the rows: the others push their parts of these into its shared memory, where a barrier counts the bytes. So
// nobody reads another block's memory, nobody waits for its own to be read, and a push crosses the cluster once.

template <int ROWS, int COLUMNS, int BLOCKS, int PLANES> struct ClusterSums {
  static constexpr int MOST = (ROWS + BLOCKS - 1) / BLOCKS;   // rows that a block finishes
  static constexpr int PITCH = COLUMNS + 8;                   // floats in a row; 8 more keep conflicts away
  static constexpr int PART = MOST * PITCH;
  static constexpr int BYTES = BLOCKS * PLANES * PART * 4;
  static_assert(COLUMNS % 8 == 0, "whole mma tiles");

  uint32_t sums, barrier;   // in shared memory
  int rank;                 // of this block among the tile's
  int base, apart;          // block r of the tile is block base + r * apart of the cluster
  int rows, each;           // of the tile that exist, and of a block

  DEVICE int first() const { return rank * each; }
  DEVICE int mine() const { return max(min(rows - rank * each, each), 0); }

  // By one thread, which then makes its barriers visible to the cluster.
  DEVICE void begin() const { mbarrier_init(barrier, 1); }
  // By that thread, after it.
  DEVICE void expect() const { mbarrier_expect(barrier, mine() * BLOCKS * PLANES * COLUMNS * 4); }

  // Where part `plane` of one row goes.
  struct Place {
    uint32_t at, barrier;
    bool exists;
  };
  // Of the row that this thread pushes of the 16 rows from `row`: see push.
  DEVICE Place place(int plane, int row) const {
    row += threadIdx.x % 32 / 4 + threadIdx.x % 2 * 8;
    const bool exists = row < rows;
    const int owner = exists ? row / each : 0;
    const uint32_t at = sums + ((rank * PLANES + plane) * PART + (exists ? row - owner * each : 0) * PITCH) * 4;
    return {cluster_address(at, base + owner * apart), cluster_address(barrier, base + owner * apart), exists};
  }
  // By a warp: a 16 x 8 tile as an mma leaves it, two sums of a row and two of the row 8 below in each thread, from column
  // `column`. Neighbours trade, so that each has four sums of one row.
  DEVICE void push(const Place& place, int column, const float* d) const {
    const bool below = threadIdx.x % 2;
    const float x = __shfl_xor_sync(~0u, below ? d[0] : d[2], 1), y = __shfl_xor_sync(~0u, below ? d[1] : d[3], 1);
    const float4 v = below ? make_float4(x, y, d[2], d[3]) : make_float4(d[0], d[1], x, y);
    if (place.exists) push_cluster(place.at + (column + threadIdx.x % 4 / 2 * 4) * 4, v, place.barrier);
  }
  // All parts of this block's rows are there.
  DEVICE void wait() const { mbarrier_wait_cluster(barrier, 0); }
  // Adds all parts of WIDTH columns of this block's row `row`.
  template <int WIDTH> DEVICE void add(acc_t (&sum)[WIDTH], const unsigned char* shared, int row, int column) const {
    const float* const from = reinterpret_cast<const float*>(shared) + row * PITCH + column;
#pragma unroll
    for (int p = 0; p < BLOCKS * PLANES; ++p) add_sums<WIDTH>(sum, from + p * PART);
  }
};
#endif

// What THREADS threads finish of a block's rows, COLUMNS wide: BATCH times WIDTH columns of a row each at a time. What the
// epilogue reads for the first batch may be asked for early.
template <class Sums, int COLUMNS, int WIDTH, int THREADS, int BATCH> struct Finish {
  static constexpr int ACROSS = COLUMNS / WIDTH;
  static constexpr int ROUNDS = (Sums::MOST * ACROSS + THREADS - 1) / THREADS;
  index_t to[BATCH];
  typename Epilogue::template Reads<WIDTH> reads[BATCH];

  // The tile begins at row `row0` and column `column0` of the `columns` that exist; its rows lie FILTERS apart from `shift`.
  DEVICE void ask(int round, const Sums& sums, index_t row0, int column0, int columns, int shift, const Epilogue& epilogue) {
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
      const int item = (round + b) * THREADS + threadIdx.x, row = item / ACROSS;
      const int column = column0 + item % ACROSS * WIDTH;
      const bool exists = row < sums.mine() && (columns % COLUMNS == 0 || column < columns);
      to[b] = exists ? (row0 + sums.first() + row) * FILTERS + shift + column : -1;
      if (exists) reads[b] = epilogue.template read<WIDTH>(to[b]);
    }
  }
  // After the first batch was asked for.
  DEVICE void finish(const Sums& sums, const unsigned char* shared, index_t row0, int column0, int columns, int shift,
                     const Epilogue& epilogue) {
    sums.wait();
#pragma unroll
    for (int round = 0; round < ROUNDS; round += BATCH) {
      if (round > 0) ask(round, sums, row0, column0, columns, shift, epilogue);
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        const int item = (round + b) * THREADS + threadIdx.x;
        if (to[b] < 0) continue;
        acc_t sum[WIDTH] = {};
        sums.template add<WIDTH>(sum, shared, item / ACROSS, item % ACROSS * WIDTH);
        epilogue.template store<WIDTH>(sum, to[b], reads[b]);
      }
    }
  }
};
