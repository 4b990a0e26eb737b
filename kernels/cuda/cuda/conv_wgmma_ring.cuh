// conv.wgmma: convolution over channels-last tensors as an implicit matrix product on Hopper's tensor cores (wgmma).
//   rows    = output pixels (image, y, x), BM to a tile of the output
//   columns = filters, BN to a tile
//   k       = (tap, channel), 64 halves to a tile, without padding between taps; then the channels of what is ADDED, whose pixels
//             come by a map of their own, and weights likewise
// A ring of STAGES stages of DEEP tiles of both operands, rows of 128 bytes, swizzled. The threads behind the multiplying ones fill it:
// weights come packed as [column tile][k tile][BN rows][128 bytes], so that a tile is one bulk copy; how pixels come is in
// the next part. CONSUMERS warpgroups multiply, MT x 64 rows each: of one tile together, or in two teams with a tile each and in
// turns (PONG), so that one finishes its tile while the other multiplies. A block takes every gridDim.x-th tile of the output, and
// fills the ring for the next while it finishes one. Or SPLIT blocks of a cluster share one tile's k; each finishes
// some of its rows. SHARE x SPREAD blocks of a cluster (its peers) take tiles below and beside each other: multiprocessors near
// each other that ask for the same lines at the same time get them from L2 at once. Or each reads a part of its weights for the
// SHARE blocks of its column and a part of its pixels for the SPREAD blocks of its row (MULTICAST).
// Results are stored from registers, or come through shared memory, THROUGH tiles of them to a team.
// full[s]: the stage's bytes, one arrival that announces them, and one of each thread that copies pixels.
// empty[s]: one arrival of each warp that multiplied it, of all blocks that are sent the same weights or pixels.

constexpr int THREADS = 128 * CONSUMERS + (MAPS && CONSUMERS == 1 ? 32 : 128);
constexpr int CHUNKS = KH * KW * CG / 8;                // 16-byte chunks of k
constexpr int OWN_TILES = (CHUNKS + 7) / 8, ADDED_TILES = (ADDED_CHANNELS + 63) / 64;
constexpr int TILES = OWN_TILES + ADDED_TILES;
constexpr int STEPS = TILES > 1 ? 4 : (CHUNKS + 1) / 2;  // wgmma's of a tile: the last tile's zeros are multiplied if there are others
constexpr int A_BYTES = BM * 128;
constexpr int B_BYTES = BN * 128;
constexpr int STAGE_BYTES = DEEP * (A_BYTES + B_BYTES);   // pixels, then filters
constexpr int MAPPED_BYTES = MAPS ? A_BYTES : 0;
constexpr int FILLING = MAPS ? 1 : 129;                 // arrivals at full[s]
constexpr int TEAMS = PONG ? 2 : 1;                     // each with a tile of the output
constexpr int TEAM = CONSUMERS / TEAMS;                 // its warpgroups
constexpr int MT = BM / 64 / TEAM;
constexpr int COLUMN_TILES = (NG + BN - 1) / BN;
constexpr int PEERS = SHARE * SPREAD;
constexpr int SENT_DOWN = MULTICAST ? SHARE : 1, SENT_ALONG = MULTICAST ? SPREAD : 1;   // blocks that get the same weights, pixels
constexpr bool SENT = SENT_DOWN * SENT_ALONG > 1;
typedef ClusterSums<BM, BN, SPLIT, 1> Sums;              // of a tile that SPLIT blocks share; this block's lie over the ring
constexpr int OWN_SUM_BYTES = SPLIT == 1 ? 0 : Sums::Own::PART * 4;
constexpr int SUMS_AT = STAGES * STAGE_BYTES > OWN_SUM_BYTES ? STAGES * STAGE_BYTES : OWN_SUM_BYTES;
constexpr int RESULT_BYTES = THROUGH * BM * TEAMS * ((BN + 63) / 64) * 128;   // tiles of results on their way
constexpr int RESULT_BARRIERS = THROUGH * 4 * CONSUMERS;
constexpr int RING_BYTES = SUMS_AT + (SPLIT == 1 ? RESULT_BYTES : Sums::BYTES);

static_assert(CG % 8 == 0 && ADDED_CHANNELS % 8 == 0, "16-byte chunks of channels");
static_assert(MAPS || ADDED_TILES == 0, "maps bring what is added");
static_assert(CONSUMERS % TEAMS == 0 && BM % (64 * TEAM) == 0 && BN <= 256, "whole wgmma tiles");
static_assert(BN % 32 == 0, "whole slabs");
static_assert(DEEP == 1 || TILES % (SPLIT * DEEP) == 0, "whole stages");
static_assert(SPLIT == 1 || THROUGH == 0, "a cluster's sums go to memory themselves");
static_assert(SPLIT == 1 || !PONG, "sums cross the cluster of all warpgroups");
static_assert(COLUMN_TILES % SPREAD == 0 && (MAPS || SENT_ALONG == 1), "whole rows of peers, sent by maps");

// The kernel's parameters for what is added, and what stands for them where there are none.
#if ADDED_CHANNELS
#define ADDED_PARAMS , PIXELS added_x, const unsigned char* added_w
#define ADDED_X added_x
#define ADDED_W added_w
#else
#define ADDED_PARAMS
#define ADDED_X x
#define ADDED_W w
#endif

// The packed weights, and those of what is added.
struct Weights {
  const unsigned char *own, *added;
};

// Row tiles, and what the clusters take turns at: SHARE row tiles of SPREAD column tiles.
#define ROW_TILES ((M + BM - 1) / BM)
#define ROW_TURNS ((ROW_TILES + SHARE - 1) / SHARE)
#define TURNS (ROW_TURNS * (COLUMN_TILES / SPREAD))

// A tile of the output.
struct Tile {
  index_t row;
  int column;
};

// This block's tile in a turn. Turns go along the rows of a band of BAND columns, then along the next: what runs at the same
// time reads few rows and few columns.
DEVICE Tile tile_of(index_t turn SYMBOL_PARAMS) {
  constexpr int COLUMNS = COLUMN_TILES / SPREAD;
  const int peer = PEERS > 1 ? blockIdx.x % PEERS : 0;
  const index_t band = COLUMNS > BAND ? turn / (ROW_TURNS * BAND) : 0;
  const index_t width = COLUMNS % BAND == 0 ? BAND : min(BAND, COLUMNS - (int)band * BAND);
  const index_t at = turn - band * BAND * ROW_TURNS;
  return {at / width * SHARE + peer % SHARE, (int)(band * BAND + at % width) * SPREAD + peer / SHARE};
}

// The cluster's blocks that are sent the same weights, or the same pixels, as bits.
DEVICE int of_column() {
  return ((1 << SHARE) - 1) << ((SPLIT > 1 ? blockIdx.y * PEERS : 0) + blockIdx.x % PEERS / SHARE * SHARE);
}
DEVICE int of_row() {
  int blocks = 0;
#pragma unroll
  for (int i = 0; i < SPREAD; ++i) blocks |= 1 << i * SHARE;
  return blocks << ((SPLIT > 1 ? blockIdx.y * PEERS : 0) + blockIdx.x % SHARE);
}

// By one thread: announces what stage `slot` will get by bulk copies, and asks for the tiles of k from `tile` on of column tile
// `column` of the weights.
DEVICE void request_weights(uint32_t ring, uint32_t full, const Weights& w, int column, int tile, int slot) {
  constexpr int TOGETHER = ADDED_TILES == 0 ? DEEP : 1;   // tiles that lie behind each other
  constexpr int PART = TOGETHER * B_BYTES / SENT_DOWN;
  const int part = SENT_DOWN > 1 ? blockIdx.x % SHARE : 0;
  mbarrier_expect(full + 8 * slot, DEEP * (B_BYTES + MAPPED_BYTES));
#pragma unroll
  for (int d = 0; d < DEEP; d += TOGETHER) {
    const int k = tile + d;
    const unsigned char* const from =
        (ADDED_TILES == 0 || k < OWN_TILES ? w.own + ((long long)column * OWN_TILES + k) * B_BYTES
                          : w.added + ((long long)column * ADDED_TILES + (k - OWN_TILES)) * B_BYTES) + part * PART;
    const uint32_t to = ring + slot * STAGE_BYTES + DEEP * A_BYTES + d * B_BYTES + part * PART;
    if (SENT_DOWN > 1)
      copy_bulk_to_all(to, from, PART, full + 8 * slot, of_column());
    else
      copy_bulk(to, from, PART, full + 8 * slot);
  }
}

// Where the rows of a multiplying warpgroup begin in its team's tile.
DEVICE int first_row(int group) { return (PONG ? group % TEAM : group) * MT * 64; }

// By a multiplying warp: stage `slot` is done with.
DEVICE void release(uint32_t empty, int slot) {
  const int lane = threadIdx.x % 32;
  if (!SENT) {
    if (lane == 0) mbarrier_arrive(empty + 8 * slot);
  } else if (lane < SHARE + SPREAD - 1) {
    // Those of its column, and the others of its row.
    const int peer = blockIdx.x % PEERS, column = peer / SHARE, other = lane - SHARE;
    const int to = lane < SHARE ? column * SHARE + lane : (other + (other >= column)) * SHARE + peer % SHARE;
    mbarrier_arrive_at(empty + 8 * slot, (SPLIT > 1 ? blockIdx.y * PEERS : 0) + to);
  }
}

