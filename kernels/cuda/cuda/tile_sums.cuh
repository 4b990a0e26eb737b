// Sums of a tile on their way from accumulators to the epilogue, through shared memory.

// Adds to `sum` the WIDTH floats at `from`, aligned to 16 bytes where WIDTH allows. Of eight, every other four threads read
// the upper half first, for all banks to be busy, and keep their sums so until they are turned.
template <int WIDTH> DEVICE void add_sums(acc_t (&sum)[WIDTH], const float* from) {
  if constexpr (WIDTH == 8) {
    const int swap = threadIdx.x & 4;
    const float4 v = *reinterpret_cast<const float4*>(from + swap), u = *reinterpret_cast<const float4*>(from + (swap ^ 4));
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
    sum[4] += u.x, sum[5] += u.y, sum[6] += u.z, sum[7] += u.w;
  } else if constexpr (WIDTH == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  } else {
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) sum[e] += from[e];
  }
}

// Into the other order of halves and back.
template <int WIDTH> DEVICE void turn_sums(acc_t (&sum)[WIDTH]) {
  if constexpr (WIDTH == 8) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const acc_t low = sum[e];
      sum[e] = threadIdx.x & 4 ? sum[e + 4] : low;
      sum[e + 4] = threadIdx.x & 4 ? low : sum[e + 4];
    }
  }
}

// A tile of ROWS x COLUMNS, of whose sums a block has PLANES parts: over what its threads are done with, they meet in its
// shared memory.
template <int ROWS, int COLUMNS, int PLANES> struct BlockSums {
  static constexpr int MOST = ROWS;
  static constexpr int PITCH = COLUMNS + 8;                   // floats in a row; 8 more keep conflicts away
  static constexpr int PART = ROWS * PITCH;
  static_assert(COLUMNS % 8 == 0, "whole mma tiles");

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
  DEVICE void sent() const {}
  template <int WIDTH> DEVICE void add(acc_t (&sum)[WIDTH], const unsigned char* shared, int row, int column) const {
    const float* const from = reinterpret_cast<const float*>(shared) + row * PITCH + column;
    turn_sums<WIDTH>(sum);
#pragma unroll
    for (int p = 0; p < PLANES; ++p) add_sums<WIDTH>(sum, from + p * PART);
    turn_sums<WIDTH>(sum);
  }
};

#if __CUDA_ARCH__ >= 900
// The same where each of BLOCKS blocks of a cluster has PLANES parts. Every block finishes some of the rows: the others send
// their parts of these into its shared memory, where a barrier counts the bytes. One-way copies by the copy engine, as few
// bytes as can be: the way between multiprocessors is narrow, some 14 bytes a cycle.
template <int ROWS, int COLUMNS, int BLOCKS, int PLANES> struct ClusterSums : BlockSums<ROWS, COLUMNS, PLANES> {
  typedef BlockSums<ROWS, COLUMNS, PLANES> Own;
  static constexpr int MOST = (ROWS + BLOCKS - 1) / BLOCKS;   // rows that a block finishes
  static constexpr int PITCH = Own::PITCH;
  static constexpr int PART = MOST * PITCH;
  static constexpr int BYTES = (BLOCKS - 1) * PLANES * PART * 4;

  unsigned char* parts;     // of the other blocks, BYTES
  uint32_t barrier;
  int rank;                 // of this block among the tile's
  int base, apart;          // block r of the tile is block base + r * apart of the cluster

  DEVICE int each() const { return (this->rows + BLOCKS - 1) / BLOCKS; }
  DEVICE int first(int block) const { return block * each(); }
  DEVICE int first() const { return first(rank); }
  DEVICE int count(int block) const { return max(min(this->rows - first(block), each()), 0); }
  DEVICE int mine() const { return count(rank); }

  // By one thread, before it makes its barriers visible to the cluster, which then needs a cluster's barrier.
  DEVICE void begin() const { mbarrier_init(barrier, 1); }
  // By that thread, after it.
  DEVICE void expect() const { mbarrier_expect(barrier, mine() * PITCH * 4 * (BLOCKS - 1) * PLANES); }

  // A run of this block's sums, and its way to the block that finishes them.
  struct Parcel {
    uint32_t to, from, barrier;
    int bytes;   // none where there is nothing to send
  };
  // Number `part` of BLOCKS * PLANES.
  DEVICE Parcel parcel(const unsigned char* shared, int part) const {
    const int to = part / PLANES, plane = part % PLANES, block = base + to * apart;
    const float* const from = reinterpret_cast<const float*>(shared) + plane * Own::PART + first(to) * PITCH;
    float* const there = reinterpret_cast<float*>(parts) + ((rank - (rank > to)) * PLANES + plane) * PART;
    return {cluster_address(shared_address(there), block), shared_address(from), cluster_address(barrier, block),
            part >= BLOCKS * PLANES || to == rank ? 0 : count(to) * PITCH * 4};
  }
  // By a warp, once all have put this block's sums and made them visible to the copy engine.
  DEVICE void send(const Parcel& parcel) const {
    if (parcel.bytes > 0 && elected()) copy_to_cluster(parcel.to, parcel.from, parcel.bytes, parcel.barrier);
    __syncwarp();
  }
  // All of them, by each of `warps` warps, the one of number `warp`.
  DEVICE void send(const unsigned char* shared, int warp, int warps) const {
    for (int part = warp; part < BLOCKS * PLANES; part += warps) send(parcel(shared, part));
  }
  // All parts of this block's rows are there. The cluster's barrier after it tells that all were sent.
  DEVICE void wait() const {
    mbarrier_wait_cluster(barrier, 0);
    __syncwarp();
    cluster_arrive_relaxed();
  }
  // Before a block leaves: its sums have been sent.
  DEVICE void sent() const { cluster_wait(); }

  // Adds all parts of WIDTH columns of this block's row `row`, in the order of the blocks.
  template <int WIDTH> DEVICE void add(acc_t (&sum)[WIDTH], const unsigned char* shared, int row, int column) const {
    const float* const own = reinterpret_cast<const float*>(shared) + (first() + row) * PITCH + column;
    const float* const others = reinterpret_cast<const float*>(parts) + row * PITCH + column;
    turn_sums<WIDTH>(sum);
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
      const bool here = b == rank;
#pragma unroll
      for (int p = 0; p < PLANES; ++p)
        add_sums<WIDTH>(sum, here ? own + p * Own::PART : others + ((b - (b > rank)) * PLANES + p) * PART);
    }
    turn_sums<WIDTH>(sum);
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
  typename Epilogue::RowParts parts[BATCH];

  // The tile begins at row `row0` and column `column0` of the `columns` that exist; its rows lie FILTERS apart from `shift`.
  DEVICE void ask(int round, const Sums& sums, index_t row0, int column0, int columns, int shift, const Epilogue& epilogue) {
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
      const int item = (round + b) * THREADS + threadIdx.x, row = item / ACROSS;
      const int column = column0 + item % ACROSS * WIDTH;
      const bool exists = row < sums.mine() && (columns % COLUMNS == 0 || column < columns);
      to[b] = exists ? (row0 + sums.first() + row) * FILTERS + shift + column : -1;
      reads[b] = epilogue.template read<WIDTH>(exists ? to[b] : 0);
      parts[b] = epilogue.row_parts(row < sums.mine() ? row0 + sums.first() + row : 0);
    }
  }
  // After the first batch was asked for. What is known of its rows is made out while sums are on their way.
  DEVICE void finish(const Sums& sums, const unsigned char* shared, index_t row0, int column0, int columns, int shift,
                     const Epilogue& epilogue) {
    typename Epilogue::Row rows[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; ++b) rows[b] = epilogue.row(parts[b]);
    sums.wait();
#pragma unroll
    for (int round = 0; round < ROUNDS; round += BATCH) {
      if (round > 0) ask(round, sums, row0, column0, columns, shift, epilogue);
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        const int item = (round + b) * THREADS + threadIdx.x;
        const typename Epilogue::Row known = round > 0 ? epilogue.row(parts[b]) : rows[b];
        if (!Epilogue::TOGETHER && to[b] < 0) continue;
        acc_t sum[WIDTH] = {};
        if (to[b] >= 0) sums.template add<WIDTH>(sum, shared, item / ACROSS, item % ACROSS * WIDTH);
        epilogue.template store<WIDTH>(sum, to[b], reads[b], known);
      }
    }
    sums.sent();
  }
};
