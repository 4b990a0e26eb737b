// conv_transpose.simt: each thread gathers V filters (of one group) at WIDE output pixels of one row that are a stride
// apart, so that they need the same taps: only those that meet the stride are visited, and each weight read serves
// WIDE pixels. Weights come packed as [group][tap][channel][filters padded to V] or, with PACKED == 0, as the model has
// them ([channel][filter][tap]) and V = 1.

constexpr int THREADS = 128;
constexpr int SETS = (NG + V - 1) / V;     // sets of V filters in a group
constexpr int PIECE = sizeof(element_t) * V < 16 ? V : 16 / sizeof(element_t);

constexpr int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }

// The first tap r with (at - r * dilation) divisible by the stride, or the kernel size if there is none.
template <int KERNEL, int STRIDE, int DILATION> DEVICE int first_tap(int at) {
  if constexpr (STRIDE == 1) return 0;
  if constexpr (DILATION == 1) return at % STRIDE;
  int r = 0;
  while (r < KERNEL && r < STRIDE && (at + (STRIDE * DILATION - DILATION) * r) % STRIDE != 0) ++r;
  return r < STRIDE ? r : KERNEL;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const element_t* x, const element_t* w EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  // A row's strips: SW phases, each of ceil(ceil(OW / SW) / WIDE) strips.
  const index_t phase_strips = ((OW + SW - 1) / SW + WIDE - 1) / WIDE;
  const index_t strips = phase_strips * SW;
  const index_t item = (index_t)blockIdx.x * THREADS + threadIdx.x;
  constexpr int ALL_SETS = GROUPS * SETS;
  // Lanes along filters, or along a row with neighbouring lanes at neighbouring pixels.
  const int set = LAST ? item % ALL_SETS : item / (strips * OH * OD) % ALL_SETS;
  const index_t strip = LAST ? item / ALL_SETS % strips : item % strips;
  const index_t line = LAST ? item / (ALL_SETS * strips) % (OH * OD) : item / strips % (OH * OD);
  const index_t image = item / ((index_t)ALL_SETS * strips * OH * OD);
  const bool exists = image < N;
  const int group = set / SETS, filter = set % SETS * V;
  const int oz = line / OH, oy = line % OH;
  const int ox = strip / SW * (SW * WIDE) + strip % SW;   // then ox + SW, ...
  const index_t extent = ID * IH * IW;
  const element_t* from = x + image * CHANNELS * extent + (index_t)group * CG * (LAST ? 1 : extent);
  const index_t channel_step = LAST ? 1 : extent;
  dependency_wait();

  acc_t acc[WIDE][V] = {};
  if (exists) {
    const int tz = oz + PD, ty = oy + PH, tx = ox + PW;
#pragma unroll 1
    for (int a = first_tap<KD, SD, DD>(tz); a < KD; a += SD / gcd(SD, DD)) {
      if (tz < a * DD || (tz - a * DD) / SD >= ID) continue;
      const int z = (tz - a * DD) / SD;
#pragma unroll 1
      for (int r = first_tap<KH, SH, DH>(ty); r < KH; r += SH / gcd(SH, DH)) {
        if (ty < r * DH || (ty - r * DH) / SH >= IH) continue;
        const int y = (ty - r * DH) / SH;
#pragma unroll 1
        for (int s = first_tap<KW, SW, DW>(tx); s < KW; s += SW / gcd(SW, DW)) {
          // Divisible, so truncation is exact for negative columns too.
          const int column = (tx - s * DW) / SW;
          const element_t* at = from + ((index_t)(z * IH + y) * IW + column) * (LAST ? CHANNELS : 1);
          bool inside[WIDE];
#pragma unroll
          for (int i = 0; i < WIDE; ++i) inside[i] = (unsigned)(column + i) < (unsigned)IW;
          const int tap = (a * KH + r) * KW + s;
#pragma unroll 2
          for (int c = 0; c < CG; ++c) {
            acc_t weights[V];
            if constexpr (PACKED) {
              const auto v = load_row<V, PIECE>(w + ((index_t)(group * (KD * KH * KW) + tap) * CG + c) * (SETS * V) + filter);
#pragma unroll
              for (int e = 0; e < V; ++e) weights[e] = widen(v.v[e]);
            } else {
              weights[0] = widen(w[((index_t)(group * CG + c) * NG + filter) * (KD * KH * KW) + tap]);
            }
#pragma unroll
            for (int i = 0; i < WIDE; ++i) {
              const acc_t pixel = inside[i] ? widen(at[i * (LAST ? CHANNELS : 1) + c * channel_step]) : acc_t(0);
#pragma unroll
              for (int e = 0; e < V; ++e) acc[i][e] += pixel * weights[e];
            }
          }
        }
      }
    }
  }
  launch_dependents();
  if (!exists) return;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) {
    const index_t column = ox + i * SW;
    if (column >= OW) continue;
    const index_t pixel = (index_t)line * OW + column;
    if constexpr (LAST && NG % V == 0) {
      EPILOGUE.store<V>(acc[i], (image * (OD * OH * OW) + pixel) * FILTERS + group * NG + filter);
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const index_t f = group * NG + filter + e;
        acc_t one[1] = {acc[i][e]};
        if (NG % V == 0 || filter + e < NG)
          EPILOGUE.store<1>(one, LAST ? (image * (OD * OH * OW) + pixel) * FILTERS + f
                                      : (image * FILTERS + f) * (OD * OH * OW) + pixel);
      }
    }
  }
}
