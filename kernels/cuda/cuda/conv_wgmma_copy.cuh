// Pixels by cp.async, 16 bytes each, eight threads to a row: any geometry. A warpgroup fills, and computes addresses.

#define PIXELS const element_t*
constexpr int TAP_CHUNKS = CG / 8;                      // a 16-byte chunk lies in one tap

DEVICE bool inside(unsigned mask, int tap) {
  return DENSE_MASK ? mask >> (tap & 31) & 1 : mask >> tap / KW & mask >> (16 + tap % KW) & 1;
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

// By the filling warpgroup: `count` stages from tile `first` of k on for each tile of the output. The weights of the first STAGES
// are under way.
DEVICE void fill(unsigned char* ring, uint32_t full, uint32_t empty, const element_t* x, const element_t*, const Weights& w,
                 int warp, int first, int count SYMBOL_PARAMS) {
  Window* const windows = reinterpret_cast<Window*>(ring + RING_BYTES + 16 * STAGES + 16 + 8 * RESULT_BARRIERS);
  const int thread = threadIdx.x - 128 * CONSUMERS;
  const int chunk = thread % 8, row = thread / 8;
  unsigned char* const to = ring + row * 128 + ((chunk ^ (row & 7)) << 4);
  int slot = 0, step = 0;
  uint32_t parity = 1;
  for (index_t turn = blockIdx.x / PEERS; turn < TURNS; turn += gridDim.x / PEERS) {
    const Tile tile = tile_of(turn SYMBOL_NAMES);
    const index_t row0 = tile.row * BM;
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
        if (warp == step % 4 && elected()) request_weights(shared_address(ring), full, w, tile.column, first + t * DEEP, slot);
      }
#pragma unroll
      for (int d = 0; d < DEEP; ++d) {
        unsigned char* const stage = to + slot * STAGE_BYTES + d * A_BYTES;
#pragma unroll
        for (int i = 0; i < BM / 16; ++i) {
          if (POINTWISE)
            cp_async16(stage + i * 2048, pixels + (place.delta + (index_t)i * 16 * CHANNELS), place.valid && i < rows);
          else
            cp_async16(stage + i * 2048, x + (window[i].offset + place.delta),
                       place.valid && inside(window[i].mask, place.tap));
        }
        if (d == DEEP - 1) cp_async_arrive(full + 8 * slot);
        place = find(first + t * DEEP + d + 1, chunk SYMBOL_NAMES);
      }
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
}

