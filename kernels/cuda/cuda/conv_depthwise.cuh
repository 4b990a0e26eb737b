// conv.depthwise: one filter to each channel. A thread computes V channels (V = 1 where channels come first) of WIDE
// neighbouring pixels of one output row, and reads every input column that they share once.
// Weights come packed as [tap][channel].

constexpr int THREADS = 128;
constexpr int COLUMNS = (WIDE - 1) * SW + (KW - 1) * DW + 1;   // input columns under one row of outputs
constexpr int PIECE = sizeof(element_t) * V < 16 ? V : 16 / sizeof(element_t);

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* x, const element_t* w EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH;
  const index_t strips = (OW + WIDE - 1) / WIDE;
  const index_t item = (index_t)blockIdx.x * THREADS + threadIdx.x;
  // Lanes along what is contiguous: channels, or strips of a row.
  const index_t channel = LAST ? item % (CHANNELS / V) * V : item / (strips * OH) % CHANNELS;
  const index_t strip = LAST ? item / (CHANNELS / V) % strips : item % strips;
  const index_t row = LAST ? item / (CHANNELS / V * strips) % OH : item / strips % OH;
  const index_t image = item / (CHANNELS / V * strips * OH);
  const bool exists = image < N;
  const int x0 = strip * WIDE * SW - PW, y0 = row * SH - PH;
  const element_t* plane = x + image * (CHANNELS * IH * IW) + channel * (LAST ? 1 : IH * IW);
  constexpr int STEP = LAST ? CHANNELS : 1;
  dependency_wait();

  acc_t acc[WIDE][V] = {};
  if (exists) {
#pragma unroll
    for (int r = 0; r < KH; ++r) {
      const int y = y0 + r * DH;
      if ((unsigned)y >= (unsigned)IH) continue;
      acc_t taps[KW][V];
#pragma unroll
      for (int s = 0; s < KW; ++s) {
        const auto v = load_row<V, PIECE>(w + (r * KW + s) * CHANNELS + channel);
#pragma unroll
        for (int e = 0; e < V; ++e) taps[s][e] = widen(v.v[e]);
      }
      const element_t* line = plane + (index_t)y * IW * STEP;
#pragma unroll
      for (int column = 0; column < COLUMNS; ++column) {
        bool used = false;
#pragma unroll
        for (int s = 0; s < KW; ++s) used |= column >= s * DW && (column - s * DW) % SW == 0 && (column - s * DW) / SW < WIDE;
        if (!used || (unsigned)(x0 + column) >= (unsigned)IW) continue;
        const auto v = load_row<V, PIECE>(line + (index_t)(x0 + column) * STEP);
#pragma unroll
        for (int s = 0; s < KW; ++s) {
          // The one output of the strip that tap s takes this column to.
          if (column >= s * DW && (column - s * DW) % SW == 0 && (column - s * DW) / SW < WIDE) {
#pragma unroll
            for (int e = 0; e < V; ++e) acc[(column - s * DW) / SW][e] += widen(v.v[e]) * taps[s][e];
          }
        }
      }
    }
  }
  launch_dependents();
  if (!exists) return;
  const index_t pixel = row * OW + strip * WIDE;
  if constexpr (LAST) {
#pragma unroll
    for (int i = 0; i < WIDE; ++i)
      if (OW % WIDE == 0 || strip * WIDE + i < OW)
        EPILOGUE.store<V>(acc[i], ((image * OH * OW) + pixel + i) * CHANNELS + channel);
  } else {
    // V outputs at a time along the row; VEC divides both the strip and the row.
#pragma unroll
    for (int i = 0; i < WIDE; i += VEC) {
      if (strip * WIDE + i < OW) {
        acc_t some[VEC];
#pragma unroll
        for (int e = 0; e < VEC; ++e) some[e] = acc[i + e][0];
        EPILOGUE.store<VEC>(some, (image * CHANNELS + channel) * (OH * OW) + pixel + i);
      }
    }
  }
}
