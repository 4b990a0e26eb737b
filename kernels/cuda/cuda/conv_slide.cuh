// conv.slide: one filter to each channel, channels last. A block asks at once for its whole tile of input, with what windows
// reach beyond it and zeros outside the image, in STAGES parts on their way to shared memory. A thread owns V channels of WIDE
// neighbouring columns and slides down TALL rows of outputs: every element is read and widened once, and added to
// all outputs of its column whose windows it lies in, whose sums stay in registers. What becomes of them is said elsewhere.
// Weights come packed as [tap][channel].

constexpr int ROWS = (TALL - 1) * SH + (KH - 1) * DH + 1;               // of the tile
constexpr int COLUMNS = (WIDE * STRIPS - 1) * SW + (KW - 1) * DW + 1;
constexpr int OWN = (WIDE - 1) * SW + (KW - 1) * DW + 1;                // columns that a thread reads
constexpr int LIVE = (KH - 1) * DH / SH + 1;                            // rows of outputs that one row of input belongs to
// Copies: ACROSS threads for the channels of a pixel, AT_ONCE pixels in each turn.
constexpr int ACROSS = LANES * V / CHUNK, AT_ONCE = THREADS / ACROSS;
constexpr int TURNS = (ROWS * COLUMNS + AT_ONCE - 1) / AT_ONCE, PART = (TURNS + STAGES - 1) / STAGES;
static_assert(ACROSS * AT_ONCE == THREADS && STAGES <= 4, "every thread copies, and waits by number");

// The tap that takes input i to output o along one dimension; none if it is no whole number of 0 to taps - 1.
DEVICE constexpr int tap_of(int i, int o, int stride, int dilation, int taps) {
  const int from = i - o * stride;
  return from >= 0 && from % dilation == 0 && from / dilation < taps ? from / dilation : -1;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* x, const element_t* w EPILOGUE_PARAMS RESULTS_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  Results results{RESULTS};
  extern __shared__ uint4 shared[];
  element_t* const tile = reinterpret_cast<element_t*>(shared);
  const index_t bands = (OH + TALL - 1) / TALL, breadths = (OW + WIDE * STRIPS - 1) / (WIDE * STRIPS);
  constexpr int GROUPS_OF_LANES = (CHANNELS + LANES * V - 1) / (LANES * V);
  const index_t block = blockIdx.x;
  const int channel0 = block % GROUPS_OF_LANES * (LANES * V);
  results.begin(block % GROUPS_OF_LANES);
  const int breadth = block / GROUPS_OF_LANES % breadths, band = block / (GROUPS_OF_LANES * breadths) % bands;
  const index_t image = block / (GROUPS_OF_LANES * breadths * bands);
  const int x0 = breadth * (WIDE * STRIPS * SW) - PW, y0 = band * (TALL * SH) - PH;
  const int thread = threadIdx.x, lane = thread % LANES, strip = thread / LANES;
  const int channel = channel0 + lane * V;
  const bool exists = CHANNELS % (LANES * V) == 0 || channel < CHANNELS;

  typedef Vec<element_t, V> Piece;
  acc_t taps[KH * KW][V];
#pragma unroll
  for (int t = 0; t < KH * KW; ++t) {
    const Piece tap = load_vec<V>(w + t * CHANNELS + (exists ? channel : 0));
#pragma unroll
    for (int e = 0; e < V; ++e) taps[t][e] = widen(tap.v[e]);
  }
  const int chunk = thread % ACROSS * CHUNK, first = thread / ACROSS;
  const bool copies = CHANNELS % (LANES * V) == 0 || channel0 + chunk < CHANNELS;
  const element_t* corner = x + ((image * IH + y0) * IW + x0) * CHANNELS + channel0 + chunk;
  dependency_wait();
#pragma unroll 1
  for (int stage = 0; stage < STAGES; ++stage) {
#pragma unroll 4
    for (int turn = stage * PART; turn < min((stage + 1) * PART, TURNS); ++turn) {
      const int pixel = first + turn * AT_ONCE, row = pixel / COLUMNS, column = pixel % COLUMNS;
      if (ROWS * COLUMNS % AT_ONCE != 0 && pixel >= ROWS * COLUMNS) break;
      const bool inside = copies && (unsigned)(y0 + row) < (unsigned)IH && (unsigned)(x0 + column) < (unsigned)IW;
      const element_t* from = corner + ((index_t)row * IW + column) * CHANNELS;
      if constexpr (CHUNK * sizeof(element_t) == 16)
        cp_async16(tile + pixel * PITCH_OF_PIXELS + chunk, from, inside);
      else
        cp_async<CHUNK * sizeof(element_t)>(tile + pixel * PITCH_OF_PIXELS + chunk, from, inside);
    }
    cp_async_commit();
  }
  launch_dependents();

  const auto epilogue = EPILOGUE;
  // What depends on the channel alone is read once.
  const auto fixed = epilogue.read<V>(exists ? channel : 0);
  const element_t* const own = tile + strip * (WIDE * SW * PITCH_OF_PIXELS) + lane * V;
  const int column0 = breadth * (WIDE * STRIPS) + strip * WIDE;
  index_t at = ((image * OH + band * TALL) * OW + column0) * CHANNELS + channel;
  acc_t acc[LIVE][WIDE][V] = {};
  int arrived = 0;
  // Twice, so that half of the sums need not change registers.
#pragma unroll 2
  for (int i = 0; i < TALL + LIVE - 1; ++i) {
    const int needed = min((min((i + 1) * SH, ROWS) * COLUMNS - 1) / (PART * AT_ONCE), STAGES - 1);
    if (needed >= arrived) {
      const int later = STAGES - 1 - needed;
      if (later == 0)
        cp_async_wait<0>();
      else if (later == 1)
        cp_async_wait<1>();
      else if (later == 2)
        cp_async_wait<2>();
      else
        cp_async_wait<3>();
      __syncthreads();
      arrived = needed + 1;
    }
#pragma unroll
    for (int m = LIVE - 1; m >= 0; --m)
#pragma unroll
      for (int j = 0; j < WIDE; ++j)
#pragma unroll
        for (int e = 0; e < V; ++e) acc[m][j][e] = m ? acc[m ? m - 1 : 0][j][e] : acc_t(0);
#pragma unroll
    for (int s = 0; s < SH; ++s) {
      const int row = i * SH + s;
      if ((unsigned)(y0 + row) >= (unsigned)IH || (SH > 1 && row >= ROWS)) continue;
      Piece line[OWN];
#pragma unroll
      for (int c = 0; c < OWN; ++c) line[c] = load_vec<V>(own + (row * COLUMNS + c) * PITCH_OF_PIXELS);
#pragma unroll
      for (int m = LIVE - 1; m >= 0; --m) {
        const int a = tap_of(m * SH + s, 0, SH, DH, KH);
        if (a < 0) continue;
#pragma unroll
        for (int b = 0; b < KW; ++b)
#pragma unroll
          for (int j = 0; j < WIDE; ++j)
#pragma unroll
            for (int e = 0; e < V; ++e)
              acc[m][j][e] += widen(line[j * SW + b * DW].v[e]) * taps[a * KW + b][e];
      }
    }
    if (i < LIVE - 1) continue;
    if (OH % TALL == 0 || band * TALL + i - (LIVE - 1) < OH) {
#pragma unroll
      for (int j = 0; j < WIDE; ++j) {
        if (exists && (OW % (WIDE * STRIPS) == 0 || column0 + j < OW)) {
          const index_t here = at + j * CHANNELS;
          if constexpr (FIXED)
            results.store<V>(epilogue, acc[LIVE - 1][j], here, fixed);
          else
            results.store<V>(epilogue, acc[LIVE - 1][j], here, epilogue.read<V>(here));
        }
      }
    }
    at += OW * CHANNELS;
  }
  results.end(strip, lane, OH * OW);
}
