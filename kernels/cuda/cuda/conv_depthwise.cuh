// conv.depthwise: one filter to each channel. A thread computes V channels (V = 1 where channels come first) of a tile of
// TALL x WIDE neighbouring pixels. All it reads is asked for before the first of it is used: the filters' taps even before
// the kernel in front has ended, then every input pixel under the tile once. Windows too large for that (WHOLE == 0) are
// read row by row. What becomes of results is said elsewhere; where a block must have few channels (TEAMS > 0), it has LANES threads
// side by side along them, and TEAMS tiles.
// Weights come packed as [tap][channel].

constexpr int ROWS = (TALL - 1) * SH + (KH - 1) * DH + 1;      // input rows and columns under a tile
constexpr int COLUMNS = (WIDE - 1) * SW + (KW - 1) * DW + 1;

// The tap that takes input i to output o along one dimension; none if it is no whole number of 0 to taps - 1.
DEVICE constexpr int tap_of(int i, int o, int stride, int dilation, int taps) {
  const int from = i - o * stride;
  return from >= 0 && from % dilation == 0 && from / dilation < taps ? from / dilation : -1;
}
// Which of the first 64 inputs `outputs` outputs read, one bit each. A constant by name: the loops are not left to the optimiser.
DEVICE constexpr unsigned long long read_by(int outputs, int stride, int dilation, int taps) {
  unsigned long long read = 0;
  for (int i = 0; i < 64; ++i)
    for (int o = 0; o < outputs; ++o)
      if (tap_of(i, o, stride, dilation, taps) >= 0) read |= 1ull << i;
  return read;
}
constexpr unsigned long long ROWS_READ = read_by(TALL, SH, DH, KH), COLUMNS_READ = read_by(WIDE, SW, DW, KW);

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* x, const element_t* w EPILOGUE_PARAMS RESULTS_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  Results results{RESULTS};
  const index_t strips = (OW + WIDE - 1) / WIDE, bands = (OH + TALL - 1) / TALL;
  index_t channel, strip, band, image;
  bool exists;
  const int team = TEAMS ? threadIdx.x / LANES : 0, lane = TEAMS ? threadIdx.x % LANES : 0;
  if constexpr (TEAMS > 0) {
    constexpr int SETS = (CHANNELS / V + LANES - 1) / LANES;
    const index_t parts = (strips * bands + TEAMS - 1) / (TEAMS ? TEAMS : 1);
    const int set = blockIdx.x % SETS;
    const index_t tile = blockIdx.x / SETS % parts * TEAMS + team;
    results.begin(set);
    channel = (set * LANES + lane) * V;
    strip = tile % strips;
    band = tile / strips;
    image = blockIdx.x / (SETS * parts);
    exists = (team < TEAMS) & (channel < CHANNELS) & (band < bands);
    if (channel >= CHANNELS) channel = 0;
  } else {
    const index_t item = (index_t)blockIdx.x * THREADS + threadIdx.x;
    // Lanes along what is contiguous: channels, or strips of a row.
    channel = LAST ? item % (CHANNELS / V) * V : item / (strips * bands) % CHANNELS;
    strip = LAST ? item / (CHANNELS / V) % strips : item % strips;
    band = LAST ? item / (CHANNELS / V * strips) % bands : item / strips % bands;
    image = item / (CHANNELS / V * strips * bands);
    exists = image < N;
  }
  const int x0 = strip * WIDE * SW - PW, y0 = band * TALL * SH - PH;
  constexpr int STEP = LAST ? CHANNELS : 1;

  typedef Vec<element_t, V> Piece;
  const element_t* own = w + channel;
  Piece taps[WHOLE ? KH * KW : 1];
  if constexpr (WHOLE) {
#pragma unroll
    for (int t = 0; t < KH * KW; ++t) taps[t] = load_vec<V>(own + t * CHANNELS);
  }
  const element_t* corner = x + image * (CHANNELS * IH * IW) + channel * (LAST ? 1 : IH * IW) + ((index_t)y0 * IW + x0) * STEP;
  dependency_wait();

  const auto epilogue = EPILOGUE;
  // What depends on the channel alone is read once, before it is needed.
  const auto fixed = epilogue.read<V>(FIXED ? channel : 0);
  acc_t acc[TALL][WIDE][V] = {};
  // Row r of the input under the tile, zero outside the image. No condition is a branch: those would keep loads apart.
  auto fetch = [&](int r, Piece (&line)[COLUMNS]) {
    const bool row_inside = exists & ((unsigned)(y0 + r) < (unsigned)IH);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      if ((r >= 64 || ROWS_READ >> (r & 63) & 1) && (c >= 64 || COLUMNS_READ >> (c & 63) & 1))
        line[c] = load_vec_if<V>(corner + (index_t)(r * IW + c) * STEP, row_inside & ((unsigned)(x0 + c) < (unsigned)IW));
    }
  };
  auto add = [&](int r, const Piece (&line)[COLUMNS]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
      for (int j = 0; j < TALL; ++j) {
#pragma unroll
        for (int i = 0; i < WIDE; ++i) {
          const int a = tap_of(r, j, SH, DH, KH), b = tap_of(c, i, SW, DW, KW);
          if (a >= 0 && b >= 0) {
            const Piece tap = WHOLE ? taps[WHOLE ? a * KW + b : 0] : load_vec<V>(own + (a * KW + b) * CHANNELS);
#pragma unroll
            for (int e = 0; e < V; ++e) acc[j][i][e] += widen(line[c].v[e]) * widen(tap.v[e]);
          }
        }
      }
    }
  };
  if constexpr (WHOLE) {
    Piece patch[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) fetch(r, patch[r]);
    launch_dependents();
#pragma unroll
    for (int r = 0; r < ROWS; ++r) add(r, patch[r]);
  } else {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      Piece line[COLUMNS];
      fetch(r, line);
      add(r, line);
    }
    launch_dependents();
  }
#pragma unroll
  for (int j = 0; j < TALL; ++j) {
    const index_t row = band * TALL + j;
    if (!exists || (OH % TALL != 0 && row >= OH)) break;
    const index_t pixel = row * OW + strip * WIDE;
    if constexpr (LAST) {
#pragma unroll
      for (int i = 0; i < WIDE; ++i) {
        if (OW % WIDE == 0 || strip * WIDE + i < OW) {
          const index_t at = (image * OH * OW + pixel + i) * CHANNELS + channel;
          if constexpr (FIXED)
            results.store<V>(epilogue, acc[j][i], at, fixed);
          else
            results.store<V>(epilogue, acc[j][i], at, epilogue.read<V>(at));
        }
      }
    } else {
      // VEC outputs at a time along the row; VEC divides both the strip and the row.
#pragma unroll
      for (int i = 0; i < WIDE; i += VEC) {
        if (strip * WIDE + i < OW) {
          acc_t some[VEC];
#pragma unroll
          for (int e = 0; e < VEC; ++e) some[e] = acc[j][i + e][0];
          const index_t at = (image * CHANNELS + channel) * (OH * OW) + pixel + i;
          results.store<VEC>(epilogue, some, at, epilogue.read<VEC>(at));
        }
      }
    }
  }
  results.end(team, lane, OH * OW);
}
