// Results by way of shared memory, and what the epilogue reads for each of them (CARRIED) too: the copy engine moves both, in boxes
// of 16 rows of 64 columns. Each warp has THROUGH tiles' boxes to itself: what it reads comes there ahead of time, results take its
// place, element by element, and go on from there.

#define RESULT_PARAMS , const __grid_constant__ TensorMap carried_map, const __grid_constant__ TensorMap result_map
#define RESULT_NAMES , carried_map, result_map

constexpr int BOXES = (BN + 63) / 64;                   // beside each other
constexpr int BOX_BYTES = 16 * 128;
static_assert(SPLIT == 1 && WIDTH == 8, "whole sums, in 16-byte chunks");
static_assert(BN % 64 == 0 || COLUMN_TILES == 1, "a box belongs to one tile");

struct Results {
  static constexpr int SLABS = BN / 32, COUNT = MT * SLABS;
  const TensorMap &carried_map, &result_map;
  int warp;
  unsigned char* boxes;    // of this warp
  uint32_t there;          // THROUGH barriers of this warp: what it reads has come
  int tiles;               // so far
  typename Epilogue::template Reads<8> reads[AHEAD][2];
  KnownRows known;

  DEVICE Results(unsigned char* shared, uint32_t barriers, const TensorMap& carried_map, const TensorMap& result_map)
      : carried_map(carried_map), result_map(result_map), warp(same_for_warp(threadIdx.x / 32)),
        boxes(shared + warp * (THROUGH * MT * BOXES * BOX_BYTES)), there(barriers + warp * (THROUGH * 8)), tiles(0) {}

  static DEVICE index_t step() { return TEAMS * (gridDim.x / PEERS); }
  static DEVICE bool leads() { return elected(); }
  DEVICE index_t warp_row(index_t row0) const { return row0 + warp % 4 * 16; }
  static DEVICE bool exists(int column0, int box) { return COLUMN_TILES == 1 || NG % BN == 0 || column0 + box * 64 < NG; }

  // By one thread of a warp, the same each time: asks for what the tile of `turn` reads, if there is one.
  DEVICE void bring(index_t turn, int place SYMBOL_PARAMS) {
    if (turn >= TURNS) return;
    const Tile tile = tile_of(turn SYMBOL_NAMES);
    const index_t row = warp_row(tile.row * BM + first_row(warp / 4));
    const int column0 = tile.column * BN;
    int bytes = 0;
#pragma unroll
    for (int b = 0; b < BOXES; ++b) bytes += exists(column0, b) ? MT * BOX_BYTES : 0;
    mbarrier_expect(there + 8 * place, bytes);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
      for (int b = 0; b < BOXES; ++b)
        if (exists(column0, b))
          copy_tile(shared_address(boxes) + ((place * MT + i) * BOXES + b) * BOX_BYTES, carried_map,
                    CARRIED_COLUMN + column0 + b * 64, (int)(CARRIED_ROW + row) + i * 64, there + 8 * place);
    }
  }

  // Before the first tile, that of `turn`.
  DEVICE void begin(index_t turn SYMBOL_PARAMS) {
    if (CARRIED && leads()) {
#pragma unroll
      for (int t = 0; t < THROUGH; ++t) bring(turn + t * step(), t SYMBOL_NAMES);
    }
    __syncwarp();
  }

  static DEVICE int column_of(int slab, int column0) { return column0 + slab % SLABS * 32 + threadIdx.x % 4 * 8; }
  // Element 0 of a thread's row of a slab in the dense result, or -1.
  DEVICE index_t place_of(int slab, int half, index_t row0, int column0 SYMBOL_PARAMS) const {
    const int n = column_of(slab, column0);
    const index_t m = warp_row(row0) + slab / SLABS * 64 + half * 8 + threadIdx.x % 32 / 4;
    return m < M && (NG % BN == 0 || n < NG) ? m * FILTERS + n : -1;
  }
  DEVICE void ask(int slab, index_t row0, int column0, const Epilogue& epilogue SYMBOL_PARAMS) {
    const int n = column_of(slab, column0), column = NG % BN == 0 || n < NG ? n : 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const index_t at = place_of(slab, half, row0, column0 SYMBOL_NAMES);
      reads[slab % AHEAD][half] = epilogue.template read<8>(at >= 0 ? at : 0, column);
    }
  }
  // What else the epilogue reads first is under way while this tile is multiplied.
  DEVICE void ask(index_t row0, int column0, const Epilogue& epilogue SYMBOL_PARAMS) {
#pragma unroll
    for (int s = 0; s < AHEAD && s < COUNT; ++s) ask(s, row0, column0, epilogue SYMBOL_NAMES);
    known.ask(warp_row(row0), epilogue SYMBOL_NAMES);
  }

  DEVICE void finish(const float (&acc)[MT][BN / 2], index_t row0, int column0, index_t turn,
                     const Epilogue& epilogue SYMBOL_PARAMS) {
    const int lane = threadIdx.x % 32, place = THROUGH == 1 ? 0 : tiles % THROUGH;
    known.come(epilogue);
    // The tile before has long been read: its place is the next one's.
    if (CARRIED && THROUGH > 1 && tiles > 0) {
      if (leads()) {
        store_wait_read<0>();
        bring(turn + (THROUGH - 1) * step(), (tiles - 1) % THROUGH SYMBOL_NAMES);
      }
      __syncwarp();
    }
    if (CARRIED) {
      mbarrier_wait(there + 8 * place, tiles / THROUGH & 1);
    } else {
      if (leads()) store_wait_read<THROUGH - 1>();
      __syncwarp();
    }
    ++tiles;
#pragma unroll
    for (int s = 0; s < COUNT; ++s) {
      const int i = s / SLABS, b = s % SLABS / 2;
      unsigned char* const box = boxes + ((place * MT + i) * BOXES + b) * BOX_BYTES;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const index_t at = place_of(s, half, row0, column0 SYMBOL_NAMES);
        // Row half * 8 + lane / 4 of the box, chunk s % 2 * 4 + lane % 4: swizzled.
        auto* const chunk = box + half * 1024 + lane / 4 * 128 + ((s % SLABS % 2 * 4 + lane % 4 ^ lane / 4) << 4);
        Vec<carried_t, 8> carried;
        if (CARRIED) carried = load_vec<8>(reinterpret_cast<const carried_t*>(chunk));
        acc_t sum[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e] = sum_at(acc[i], s % SLABS, half, e);
        const auto result = epilogue.template result<8>(sum, at, reads[s % AHEAD][half], carried, known.rows[i][half]);
        store_vec<8>(reinterpret_cast<result_t*>(chunk), result);
      }
      if (s + AHEAD < COUNT) ask(s + AHEAD, row0, column0, epilogue SYMBOL_NAMES);
      if (s % SLABS % 2 == 0 && s % SLABS != SLABS - 1) continue;
      fence_async_shared();
      __syncwarp();
      if (leads() && exists(column0, b))
        store_tile(result_map, RESULT_COLUMN + column0 + b * 64, (int)(RESULT_ROW + warp_row(row0)) + i * 64, shared_address(box));
    }
    if (leads()) {
      store_commit();
      if (CARRIED && THROUGH == 1) {
        store_wait_read<0>();
        bring(turn + step(), 0 SYMBOL_NAMES);
      }
    }
    __syncwarp();
  }

  // Results must be there before this thread is gone.
  DEVICE void end() const {
    if (leads()) store_wait<0>();
  }
};
