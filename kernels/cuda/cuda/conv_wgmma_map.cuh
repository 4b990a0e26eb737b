// Pixels by tensor maps: one thread asks for a tile of the ring at a time, and the copy engine finds them. Pointwise: rows of a
// matrix. Else windows, walked along (image, y, x) within the box of their first taps; channels in 64s.

#define PIXELS const __grid_constant__ TensorMap
static_assert(POINTWISE || CG % 64 == 0, "a tile of k in one tap");

// By one thread: the channels from `channel` of what is added of this block's part of the rows, the first of which is m.
DEVICE void request_added(const TensorMap& added, uint32_t to, uint32_t barrier, index_t m, int channel SYMBOL_PARAMS) {
#if ADDED_CHANNELS
  if (ADDED_POINTWISE) {
    if (SPREAD > 1)
      copy_tile_to_all(to, added, channel, (int)m, barrier, of_row());
    else
      copy_tile(to, added, channel, (int)m, barrier);
  } else {
    const index_t image = m / (OH * OW), pixel = m % (OH * OW);
    const int x = (int)(pixel % OW) * ADDED_SW, y = (int)(pixel / OW) * ADDED_SH;
    if (SPREAD > 1)
      copy_windows_to_all(to, added, channel, x, y, (int)image, 0, 0, barrier, of_row());
    else
      copy_windows(to, added, channel, x, y, (int)image, 0, 0, barrier);
  }
#endif
}

// By one thread: this block's part of tile `tile` of k of the BM rows from `row0`, for all blocks of its row, into place `place` of
// stage `slot`.
DEVICE void request_pixels(const TensorMap& x, const TensorMap& added, uint32_t ring, uint32_t full, index_t row0, int tile,
                           int place, int slot SYMBOL_PARAMS) {
  const int part = SPREAD > 1 ? blockIdx.x % PEERS / SHARE : 0;
  const uint32_t to = ring + slot * STAGE_BYTES + place * A_BYTES + part * (A_BYTES / SPREAD), barrier = full + 8 * slot;
  const index_t m = row0 + part * (BM / SPREAD);
  if (ADDED_TILES > 0 && tile >= OWN_TILES) return request_added(added, to, barrier, m, (tile - OWN_TILES) * 64 SYMBOL_NAMES);
  if (POINTWISE) {
    if (SPREAD > 1)
      copy_tile_to_all(to, x, tile * 64, (int)m, barrier, of_row());
    else
      copy_tile(to, x, tile * 64, (int)m, barrier);
  } else {
    constexpr int OF_TAP = CG / 64 > 0 ? CG / 64 : 1;
    const int tap = tile / OF_TAP, channel = tile % OF_TAP * 64;
    const index_t image = m / (OH * OW), pixel = m % (OH * OW);
    const int from_x = (int)(pixel % OW) * SW - PW, from_y = (int)(pixel / OW) * SH - PH;
    const int at_x = tap % KW * DW, at_y = tap / KW * DH;
    if (SPREAD > 1)
      copy_windows_to_all(to, x, channel, from_x, from_y, (int)image, at_x, at_y, barrier, of_row());
    else
      copy_windows(to, x, channel, from_x, from_y, (int)image, at_x, at_y, barrier);
  }
}

// By the first of the filling warps, all of it, for what it computes to be uniform: `count` stages from tile `first` of k on for
// each tile of the output. The weights of the first STAGES are under way.
DEVICE void fill(unsigned char* shared, uint32_t full, uint32_t empty, const TensorMap& x, const TensorMap& added,
                 const Weights& w, int warp, int first, int count SYMBOL_PARAMS) {
  if (warp != 0) return;
  const bool asks = elected();
  const uint32_t ring = shared_address(shared);
  int slot = 0, step = 0;
  uint32_t parity = 1;
  dependency_wait();
  for (index_t turn = blockIdx.x / PEERS; turn < TURNS; turn += gridDim.x / PEERS) {
    const Tile tile = tile_of(turn SYMBOL_NAMES);
    for (int t = 0; t < count; ++t, ++step) {
      if (step >= STAGES) {
        mbarrier_wait(empty + 8 * slot, parity);
        if (asks) request_weights(ring, full, w, tile.column, first + t * DEEP, slot);
      }
      if (asks) {
#pragma unroll
        for (int d = 0; d < DEEP; ++d)
          request_pixels(x, added, ring, full, tile.row * BM, first + t * DEEP + d, d, slot SYMBOL_NAMES);
      }
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
  }
}

