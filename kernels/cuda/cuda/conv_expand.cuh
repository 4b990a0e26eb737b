// conv.expand: a convolution by one element and the depthwise convolution of what it makes, channels last. A block owns a tile of
// TILE_H x TILE_W outputs of CHUNKS times CHUNK channels. It reads what lies under the tile and inside the image once, multiplies
// it by the first convolution's filters on tensor cores, and keeps what becomes of that in shared memory, zeros outside the
// image; from there threads slide down columns of it, V channels each. Filters are asked for before the kernel in front has ended,
// those of the next chunk while the present one is slid over. What becomes of results is said elsewhere.
// Packed: the first filters as [channel][DK], the others' taps as [tap][channel].

constexpr int DK = (DEPTH + 15) / 16 * 16;             // channels that are read, in steps of the tensor cores
constexpr int X_PITCH = DK + 8, Y_PITCH = CHUNK + 8;   // eights, odd: eight rows lie in eight different places
constexpr int RH = (TILE_H - 1) * SH + (KH - 1) * DH + 1, RW = (TILE_W - 1) * SW + (KW - 1) * DW + 1;
constexpr int REGION = RH * RW;
constexpr int STRIPS = TILE_W / WIDE, RUNS = TILE_H / RUN;
constexpr int OWN = (WIDE - 1) * SW + (KW - 1) * DW + 1;    // columns and rows under a thread's outputs
constexpr int OWN_ROWS = (RUN - 1) * SH + (KH - 1) * DH + 1;
constexpr int WARPS = THREADS / 32, COLUMNS = CHUNK / SPLITS, EIGHTS = COLUMNS / 8, STEPS_OF_K = DK / 16;
constexpr bool HELD = STEPS_OF_K * EIGHTS <= 16;            // a warp's filters stay in its registers
constexpr int COPIES = (ROOM * (DK / 8) + THREADS - 1) / THREADS;     // pieces of pixels that a thread asks for, at most
constexpr bool FEW = COPIES <= 4;
static_assert(WARPS % SPLITS == 0 && COLUMNS % 8 == 0 && THREADS == LANES * TEAMS && CHUNK == LANES * V, "whole shares");
static_assert(REGION * RW < 1 << 20, "quotients by multiplication");
static_assert(ROOM % (16 * TILES) == 0 && TILE_W % WIDE == 0 && TILE_H % RUN == 0, "whole tiles");

// The tap that takes input i to output o along one dimension; none if it is no whole number of 0 to taps - 1.
DEVICE constexpr int tap_of(int i, int o, int stride, int dilation, int taps) {
  const int from = i - o * stride;
  return from >= 0 && from % dilation == 0 && from / dilation < taps ? from / dilation : -1;
}

// A warp's filters for 16 of the channels that are read.
DEVICE void read_filters(const element_t* own, int step, uint32_t (&b)[EIGHTS][2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n + 1 < EIGHTS; n += 2) {
    uint32_t r[4];
    ldmatrix_x4(r, own + (n * 8 + lane / 16 * 8 + lane % 8) * X_PITCH + step * 16 + lane / 8 % 2 * 8);
    b[n][0] = r[0], b[n][1] = r[1], b[n + 1][0] = r[2], b[n + 1][1] = r[3];
  }
  if constexpr (EIGHTS % 2 == 1)
    ldmatrix_x2(b[EIGHTS - 1], own + ((EIGHTS - 1) * 8 + lane % 8) * X_PITCH + step * 16 + lane / 8 % 2 * 8);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* x, const element_t* w,
                const element_t* first BETWEEN_PARAMS EPILOGUE_PARAMS RESULTS_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  Results results{RESULTS};
  extern __shared__ uint4 shared[];
  element_t* const made = reinterpret_cast<element_t*>(shared);      // [REGION][Y_PITCH]
  element_t* const rows = made + REGION * Y_PITCH;                   // [ROOM][X_PITCH], of pixels inside the image alone
  element_t* const filters = rows + ROOM * X_PITCH;                  // [CHUNK][X_PITCH]
  unsigned short* const places = reinterpret_cast<unsigned short*>(filters + CHUNK * X_PITCH);   // where each lies in the region
  constexpr int SETS = (CHANNELS + CHUNK * CHUNKS - 1) / (CHUNK * CHUNKS);
  const index_t bands = (OH + TILE_H - 1) / TILE_H, breadths = (OW + TILE_W - 1) / TILE_W;
  const index_t block = blockIdx.x;
  const int set = block % SETS;
  const int breadth = block / SETS % breadths, band = block / (SETS * breadths) % bands;
  const index_t image = block / (SETS * breadths * bands);
  results.begin(set);
  const int thread = threadIdx.x, lane = thread % LANES, team = thread / LANES;
  const int warp = thread / 32, slice = warp % SPLITS;
  const int x0 = breadth * (TILE_W * SW) - PW, y0 = band * (TILE_H * SH) - PH;
  const int top = max(-y0, 0), left = max(-x0, 0);
  const int across = max(min((int)IW - x0, RW) - left, 0), inside = max(min((int)IH - y0, RH) - top, 0) * across;

  // Loops stay short: a kernel that runs once in a plan fetches every instruction from afar.
  auto stage_filters = [&](int channel0) {
#pragma unroll 1
    for (int i = thread; i < CHUNK * (DK / 8); i += THREADS) {
      const int row = i / (DK / 8), piece = i % (DK / 8) * 8;
      cp_async16(filters + row * X_PITCH + piece, first + (channel0 + row) * DK + piece, true);
    }
    cp_async_commit();
  };
  typedef Vec<element_t, V> Piece;
  Piece taps[KH * KW];
  int channel;
  bool exists;
  auto read_taps = [&](int channel0) {
    channel = channel0 + lane * V;
    exists = CHANNELS % CHUNK == 0 || channel < CHANNELS;
#pragma unroll
    for (int t = 0; t < KH * KW; ++t) taps[t] = load_vec<V>(w + t * CHANNELS + (exists ? channel : 0));
  };
  stage_filters(set * CHUNKS * CHUNK);
  read_taps(set * CHUNKS * CHUNK);
  // Quotients by multiplication, exact as long as m * across stays below 2^20.
  const unsigned share = (1u << 20) / max(across, 1) + 1;
#pragma unroll 1
  for (int m = thread; m < inside; m += THREADS) {
    const int row = m * share >> 20;
    places[m] = (top + row) * RW + left + m - row * across;
  }
  if (inside < REGION) {
#pragma unroll 1
    for (int i = thread; i < REGION * Y_PITCH / 8; i += THREADS) shared[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  // Of a piece of the pixels: where it is read. Few of them are known before they may be read.
  auto from_of = [&](int i) {
    const int place = places[i / (DK / 8)], row = place / RW, column = place % RW;
    return ((image * IH + y0 + row) * IW + x0 + column) * DEPTH + i % (DK / 8) * 8;
  };
  auto copy = [&](int i, index_t from) {
    const int piece = i % (DK / 8) * 8;
    const bool read = DEPTH == DK || piece < DEPTH;
    cp_async16(rows + i / (DK / 8) * X_PITCH + piece, x + (read ? from : 0), read);
  };
  index_t froms[FEW ? COPIES : 1];
  if constexpr (FEW) {
#pragma unroll
    for (int c = 0; c < COPIES; ++c) froms[c] = from_of(min(thread + c * THREADS, max(inside, 1) * (DK / 8) - 1));
  }
  dependency_wait();
  // What a chunk's epilogues read is asked for beside its pixels or filters: what is between the convolutions depends on the
  // channel alone.
  const auto epilogue = EPILOGUE;
  const int quad = thread % 32 / 4, pair = thread % 4 * 2;
  decltype(BETWEEN(made).read<2>(0)) known[EIGHTS];
  decltype(epilogue.read<V>(0)) fixed;
  auto read_known = [&](int channel0) {
    const int column = channel0 + slice * COLUMNS + pair;
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
      known[n] = BETWEEN(made).read<2>(CHANNELS % CHUNK == 0 || column + n * 8 < CHANNELS ? column + n * 8 : 0);
    if constexpr (FIXED) fixed = epilogue.read<V>(exists ? channel : 0);
  };
  read_known(set * CHUNKS * CHUNK);
  if constexpr (FEW) {
#pragma unroll
    for (int c = 0; c < COPIES; ++c)
      if (thread + c * THREADS < inside * (DK / 8)) copy(thread + c * THREADS, froms[c]);
  } else {
#pragma unroll 4
    for (int i = thread; i < inside * (DK / 8); i += THREADS) copy(i, from_of(i));
  }
  cp_async_commit();
  launch_dependents();
#pragma unroll 1
  for (int turn = 0; turn < CHUNKS; ++turn) {
    const int channel0 = (set * CHUNKS + turn) * CHUNK;
    if (turn > 0 && channel0 >= CHANNELS) break;
    cp_async_wait<0>();
    __syncthreads();
    {
      const element_t* const own = filters + slice * COLUMNS * X_PITCH;
      uint32_t b[HELD ? STEPS_OF_K : 1][EIGHTS][2];
      if constexpr (HELD) {
#pragma unroll
        for (int k = 0; k < STEPS_OF_K; ++k) read_filters(own, k, b[HELD ? k : 0]);
      }
#pragma unroll 1
      for (int m0 = warp / SPLITS * (16 * TILES); m0 < inside; m0 += WARPS / SPLITS * (16 * TILES)) {
        float acc[TILES][EIGHTS][4] = {};
        const element_t* const from = rows + (m0 + thread % 16) * X_PITCH + thread % 32 / 16 * 8;
#pragma unroll
        for (int k = 0; k < STEPS_OF_K; ++k) {
          if constexpr (!HELD) read_filters(own, k, b[0]);
#pragma unroll
          for (int t = 0; t < TILES; ++t) {
            uint32_t a[4];
            ldmatrix_x4(a, from + t * 16 * X_PITCH + k * 16);
#pragma unroll
            for (int n = 0; n < EIGHTS; ++n) mma_m16n8k16<element_t>(acc[t][n], a, b[HELD ? k : 0][n]);
          }
        }
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int m = m0 + t * 16 + h * 8 + quad;
            if (m >= inside) continue;
            element_t* const to = made + places[m] * Y_PITCH + slice * COLUMNS + pair;
#pragma unroll
            for (int n = 0; n < EIGHTS; ++n) {
              const acc_t two[2] = {acc[t][n][2 * h], acc[t][n][2 * h + 1]};
              BETWEEN(to + n * 8).store<2>(two, 0, known[n]);
            }
          }
        }
      }
    }
    __syncthreads();
    if (turn + 1 < CHUNKS && channel0 + CHUNK < CHANNELS) stage_filters(channel0 + CHUNK);

    acc_t wide[KH * KW][V];
#pragma unroll
    for (int t = 0; t < KH * KW; ++t)
#pragma unroll
      for (int e = 0; e < V; ++e) wide[t][e] = widen(taps[t].v[e]);
#pragma unroll 1
    for (int run = team; run < STRIPS * RUNS; run += TEAMS) {
      const int strip = run % STRIPS, j0 = run / STRIPS * RUN;
      const int row0 = band * TILE_H + j0, column0 = breadth * TILE_W + strip * WIDE;
      if (!exists || (OH % TILE_H != 0 && row0 >= OH) || (OW % TILE_W != 0 && column0 >= OW)) continue;
      const element_t* const own = made + (j0 * SH * RW + strip * WIDE * SW) * Y_PITCH + lane * V;
      const index_t at = ((image * OH + row0) * OW + column0) * CHANNELS + channel;
      acc_t acc[RUN][WIDE][V] = {};
#pragma unroll
      for (int r = 0; r < OWN_ROWS; ++r) {
        acc_t line[OWN][V];
#pragma unroll
        for (int c = 0; c < OWN; ++c) {
          const Piece piece = load_vec<V>(own + (r * RW + c) * Y_PITCH);
#pragma unroll
          for (int e = 0; e < V; ++e) line[c][e] = widen(piece.v[e]);
        }
#pragma unroll
        for (int j = 0; j < RUN; ++j) {
          const int a = tap_of(r, j, SH, DH, KH);
          if (a < 0) continue;
#pragma unroll
          for (int b = 0; b < KW; ++b)
#pragma unroll
            for (int i = 0; i < WIDE; ++i)
#pragma unroll
              for (int e = 0; e < V; ++e) acc[j][i][e] += line[i * SW + b * DW][e] * wide[a * KW + b][e];
          if (a < KH - 1 || (OH % TILE_H != 0 && row0 + j >= OH)) continue;
#pragma unroll
          for (int i = 0; i < WIDE; ++i) {
            if (OW % TILE_W != 0 && column0 + i >= OW) continue;
            const index_t here = at + ((index_t)j * OW + i) * CHANNELS;
            if constexpr (FIXED)
              results.store<V>(epilogue, acc[j][i], here, fixed);
            else
              results.store<V>(epilogue, acc[j][i], here, epilogue.read<V>(here));
          }
        }
      }
    }
    if (turn + 1 < CHUNKS && channel0 + CHUNK < CHANNELS) {
      read_taps(channel0 + CHUNK);
      read_known(channel0 + CHUNK);
    }
  }
  results.end(team, lane, OH * OW);
}
