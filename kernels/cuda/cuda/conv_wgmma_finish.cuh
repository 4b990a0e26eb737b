// The packed order of filters gives each thread eight neighbours of a row in eight of its accumulators, without exchange:
// in each 32 columns of a tile, place 8 j + 2 q + e is filter 8 q + 2 j + e. By a warp, 16 rows of 32 columns are a slab.
DEVICE float sum_at(const float (&acc)[BN / 2], int columns, int half, int i) {
  return acc[(columns * 4 + i / 2) * 4 + half * 2 + i % 2];
}

// What is known of a warp's 16 rows of every 64, of which a thread finishes lane / 4 and lane / 4 + 8. It waits for that before
// the tile is multiplied where registers want it so (ROWS_FIRST), once for tiles of the same rows behind each other.
struct KnownRows {
  typename Epilogue::RowParts parts[MT][2];
  typename Epilogue::Row rows[MT][2];
  index_t first = -1;

  // From row `row0` on.
  DEVICE void ask(index_t row0, const Epilogue& epilogue SYMBOL_PARAMS) {
    if (ROWS_FIRST && row0 == first) return;
    first = row0;
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        parts[i][half] = epilogue.row_parts(min(row0 + i * 64 + half * 8 + (int)threadIdx.x % 32 / 4, M - 1));
    }
    if (ROWS_FIRST) reduce(epilogue);
  }
  DEVICE void come(const Epilogue& epilogue) {
    if (!ROWS_FIRST) reduce(epilogue);
  }
  DEVICE void reduce(const Epilogue& epilogue) {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) rows[i][half] = epilogue.row(parts[i][half]);
    }
  }
};

// SPLIT > 1: each block of a cluster finishes some rows of a tile, AHEAD items of a thread at a time.
typedef Finish<Sums, BN, WIDTH, 128 * CONSUMERS, AHEAD> Ending;

// By a warpgroup: its sums from row `row` of the tile on, over the ring that nobody reads any more.
DEVICE void put_sums(const float (&acc)[MT][BN / 2], unsigned char* shared, int row) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
#pragma unroll
    for (int g = 0; g < BN / 32; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const to = reinterpret_cast<float*>(shared) + (row + i * 64 + warp * 16 + half * 8 + lane / 4) * Sums::PITCH +
                          g * 32 + lane % 4 * 8;
        const float4 low = make_float4(sum_at(acc[i], g, half, 0), sum_at(acc[i], g, half, 1), sum_at(acc[i], g, half, 2),
                                       sum_at(acc[i], g, half, 3));
        const float4 high = make_float4(sum_at(acc[i], g, half, 4), sum_at(acc[i], g, half, 5), sum_at(acc[i], g, half, 6),
                                        sum_at(acc[i], g, half, 7));
        // Odd rows begin with the second half, for all banks to be busy.
        *reinterpret_cast<float4*>(to + (lane & 4)) = lane & 4 ? high : low;
        *reinterpret_cast<float4*>(to + (lane & 4 ^ 4)) = lane & 4 ? low : high;
      }
    }
  }
}

