// Pixels by tensor maps: one thread asks for a tile of the ring at a time, and the copy engine finds them. Pointwise: rows of a
// matrix. Else windows, walked along (image, y, x) within the box of their first taps; channels in 64s.

#define PIXELS const __grid_constant__ TensorMap
static_assert(POINTWISE || CG % 64 == 0, "a tile of k in one tap");

// This block's part of the BM rows of a tile: its first row, and the pixel which that is.
struct Part {
  int m, image, y, x;
};

DEVICE Part part_of(index_t row0 SYMBOL_PARAMS) {
  const index_t m = row0 + (SENT_ALONG > 1 ? blockIdx.x % PEERS / SHARE * (BM / SENT_ALONG) : 0);
  if (POINTWISE && (ADDED_TILES == 0 || ADDED_POINTWISE)) return {(int)m, 0, 0, 0};
  const index_t pixel = m % (OH * OW);
  return {(int)m, (int)(m / (OH * OW)), (int)(pixel / OW), (int)(pixel % OW)};
}

// By one thread: the channels from `channel` of what is added of this block's part of the rows.
DEVICE void request_added(const TensorMap& added, uint32_t to, uint32_t barrier, const Part& part, int channel) {
#if ADDED_CHANNELS
  if (ADDED_POINTWISE) {
    if (SENT_ALONG > 1)
      copy_tile_to_all(to, added, channel, part.m, barrier, of_row());
    else
      copy_tile(to, added, channel, part.m, barrier);
  } else {
    const int x = part.x * ADDED_SW, y = part.y * ADDED_SH;
    if (SENT_ALONG > 1)
      copy_windows_to_all(to, added, channel, x, y, part.image, 0, 0, barrier, of_row());
    else
      copy_windows(to, added, channel, x, y, part.image, 0, 0, barrier);
  }
#endif
}

// By one thread: this block's part of tile `tile` of k, for all blocks of its row, into place `place` of stage `slot`.
DEVICE void request_pixels(const TensorMap& x, const TensorMap& added, uint32_t ring, uint32_t full, const Part& part, int tile,
                           int place, int slot) {
  const int before = SENT_ALONG > 1 ? blockIdx.x % PEERS / SHARE * (A_BYTES / SENT_ALONG) : 0;
  const uint32_t to = ring + slot * STAGE_BYTES + place * A_BYTES + before, barrier = full + 8 * slot;
  if (ADDED_TILES > 0 && tile >= OWN_TILES) return request_added(added, to, barrier, part, (tile - OWN_TILES) * 64);
  if (POINTWISE) {
    if (SENT_ALONG > 1)
      copy_tile_to_all(to, x, tile * 64, part.m, barrier, of_row());
    else
      copy_tile(to, x, tile * 64, part.m, barrier);
  } else {
    constexpr int OF_TAP = CG / 64 > 0 ? CG / 64 : 1;
    const int tap = tile / OF_TAP, channel = tile % OF_TAP * 64;
    const int from_x = part.x * SW - PW, from_y = part.y * SH - PH;
    const int at_x = tap % KW * DW, at_y = tap / KW * DH;
    if (SENT_ALONG > 1)
      copy_windows_to_all(to, x, channel, from_x, from_y, part.image, at_x, at_y, barrier, of_row());
    else
      copy_windows(to, x, channel, from_x, from_y, part.image, at_x, at_y, barrier);
  }
}

// By the first of the filling warps, all of it, for what it computes to be uniform: `count` stages from tile `first` of k on for
// each tile of the output. The weights of the first STAGES are under way.
DEVICE void fill(unsigned char* shared, uint32_t full, uint32_t empty, const TensorMap& x, const TensorMap& added,
                 const Weights& w, int warp, int first, int count SYMBOL_PARAMS) {
  // Whether the first tile of the output takes the whole ring: then nobody asks whether a stage is the first in its place.
  constexpr bool WHOLE = TILES / SPLIT / DEEP >= STAGES;
  if (warp != 0) return;
  const bool asks = elected();
  const uint32_t ring = shared_address(shared);
  if (asks) {
    prefetch_map(x);
    if (ADDED_TILES > 0) prefetch_map(added);
  }
  index_t turn = blockIdx.x / PEERS;
  Tile tile = tile_of(turn SYMBOL_NAMES);
  Part part = part_of(tile.row * BM SYMBOL_NAMES);
  const auto request = [&](int t, int slot) {
#pragma unroll
    for (int d = 0; d < DEEP; ++d) request_pixels(x, added, ring, full, part, first + t * DEEP + d, d, slot);
  };
  int slot = 0, t = 0, step = 0;
  uint32_t parity = 1;
  // All that waits for the pixels waits for the first copies of them.
  dependency_wait_knowing((int)ring | part.m | part.image | part.y | part.x);
  if (WHOLE && turn < TURNS) {
    if (asks) {
#pragma unroll
      for (int s = 0; s < STAGES; ++s) request(s, s);
    }
    t = STAGES, parity = 0;
  }
  while (turn < TURNS) {
    for (; t < count; ++t, ++step) {
      if (WHOLE || step >= STAGES) {
        mbarrier_wait(empty + 8 * slot, parity);
        if (asks) request_weights(ring, full, w, tile.column, first + t * DEEP, slot);
      }
      if (asks) request(t, slot);
      if (++slot == STAGES) slot = 0, parity ^= 1;
    }
    t = 0;
    turn += gridDim.x / PEERS;
    tile = tile_of(turn SYMBOL_NAMES);
    part = part_of(tile.row * BM SYMBOL_NAMES);
  }
}

