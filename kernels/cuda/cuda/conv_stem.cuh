// conv.stem: a network's first convolution, of few channels, on tensor cores (mma.sync), from pixels that lie as the model's
// input has them.
//   rows    = output pixels, a patch of TH x TW of one image to a turn of a block
//   columns = filters, BN to a block
//   k       = lines (a row of the window and a channel) of 2 * PAIRS columns of the window each
// The input under a patch lies in shared memory as [row][channel][column], PITCH words to a line, zero outside the image. Its
// columns begin LEAD before the first window, for copies of VEC elements to begin where they are aligned; a window then
// begins at the last even column that does not cut it. So an operand register, two neighbouring k, is one aligned word
// (for odd strides every other pixel's halves come of two), line by line at addresses that the compiler knows.
// Columns outside the window are cleared in registers, for what is not finite there to stay out of sums.
//
// Blocks stay: each takes every gridDim.x-th strip of TURNS patches, one below the other, and asks for the next patch's input
// before it multiplies.
//
// POOLED, maxima over windows of the results are the result. Then a strip is of WINDOWS columns of these, and of so many rows as
// lie in its patches; their windows overlap the next strip's, which computes what both read. A patch's results stay in shared
// memory, -inf where there are none, as [row % RING][column][BN] with every other column's halves of 128 bytes exchanged; its last
// KEPT rows until the next patch completes their windows.
//
// Weights come packed as [column tile][step][BN / 16][lane][16 bytes]: the operand registers of a lane for 16 filters. The
// order of filters gives a thread 2 * TOGETHER neighbours: in each 8 * TOGETHER columns of a tile, place 8 j + 2 q + e is
// filter 2 * TOGETHER * q + 2 j + e. WGMMA has them as [column tile][k][64 columns], swizzled: a warpgroup multiplies its
// registers by rows of shared memory, which then is read for pixels, and once for all its warps for weights.

constexpr int THREADS = 32 * WARPS;
constexpr int MI = TH * TW / (16 * WARPS), NI = BN / 8;
constexpr int ROWS = (TH - 1) * SH + KH;
constexpr int LINES = KH * CHANNELS;
constexpr int CHUNKS = ((TW - 1) * SW + KW + LEAD + VEC - 1) / VEC;
constexpr int ITEMS = ROWS * CHANNELS * CHUNKS;
constexpr int PATCH_BYTES = ROWS * CHANNELS * PITCH * 4;
constexpr int WEIGHT_BYTES = STEPS * BN * 32;
constexpr int FIRST = LEAD % 2;                         // column of a line that is the window's first
constexpr bool ODD = SW % 2 != 0;
constexpr int TOGETHER = BN % 32 == 0 ? 4 : 2;
constexpr int SETS = NI / TOGETHER, PARTS = 2 * TOGETHER / WIDTH;
#if !POOLED
// As windows: one of each result.
#define POOL_OH OH
#define POOL_OW OW
constexpr int POOL_KH = 1, POOL_KW = 1, POOL_SH = 1, POOL_SW = 1, POOL_PH = 0, POOL_PW = 0;
#endif
// Rows and columns of maxima: what the first patch of a strip completes, what every further one does.
constexpr int FIRST_ROWS = (TH - POOL_KH) / POOL_SH + 1, MORE_ROWS = TH / POOL_SH;
constexpr int STRIP = FIRST_ROWS + (TURNS - 1) * MORE_ROWS, WINDOWS = (TW - POOL_KW) / POOL_SW + 1;
constexpr int KEPT = TURNS > 1 ? TH - FIRST_ROWS * POOL_SH : 0, RING = TH + KEPT;
constexpr int UNITS = BN / 8;                           // of 16 bytes

static_assert(TH >= POOL_KH && TW >= POOL_KW && POOL_KH >= POOL_SH && POOL_KW >= POOL_SW, "windows in patches, nothing between");
static_assert(TH % POOL_SH == 0 || TURNS == 1, "patches of a strip begin alike");
static_assert(!POOLED || WIDTH == 8 && BN % 32 == 0, "a thread has 16 bytes of a pixel's results");

static_assert(TH * TW % (16 * WARPS) == 0 && TW % 8 == 0 && BN % 16 == 0, "warps take whole 16x16 blocks");
static_assert(2 * MI % (TW / 8) == 0 || TW / 8 % (2 * MI) == 0, "a warp's eights lie alike in every warp");
static_assert(PAIRS == 1 || PAIRS == 2 || PAIRS % 4 == 0, "lines end where halves of a step do, or thirds of none do");
static_assert(2 * PAIRS >= FIRST + KW && STEPS * 8 >= LINES * PAIRS, "all of k");
static_assert(CHUNKS * VEC <= 2 * PITCH, "a line holds its columns");

// Asks for the input under a patch.
DEVICE void load_patch(unsigned char* to, const pixel_t* x, index_t image, int y0, int x0 SYMBOL_PARAMS) {
  const pixel_t* const corner = x + (OFFSET + image * XN + (index_t)y0 * XH + (index_t)x0 * XW);
  // Where several rows are asked for at once, a thread has one place in all of them.
  constexpr int LINE = CHANNELS * CHUNKS, AT_ONCE = THREADS / LINE;
  if constexpr (ASYNC && AT_ONCE * LINE * 3 >= THREADS * 2) {
    const int item = threadIdx.x % LINE, first = threadIdx.x / LINE, c = item / CHUNKS, chunk = item % CHUNKS;
    const bool across = (unsigned)(x0 + chunk * VEC) < (unsigned)IW;
    const pixel_t* const from = corner + (first * XH + c * XC + chunk * VEC * XW);
    to += (first * CHANNELS + c) * PITCH * 4 + chunk * VEC * 2;
    if (first >= AT_ONCE) return;
#pragma unroll
    for (int row = 0; row < ROWS; row += AT_ONCE) {
      // Where it is not inside, nothing is read.
      const bool inside = across && (unsigned)(y0 + first + row) < (unsigned)IH;
      if (row + AT_ONCE > ROWS && first >= ROWS - row) break;
      if constexpr (VEC == 8) {
        cp_async16(to + row * CHANNELS * PITCH * 4, from + row * XH, inside);
      } else {
        cp_async<2 * VEC>(to + row * CHANNELS * PITCH * 4, from + row * XH, inside);
      }
    }
    return;
  }
  constexpr int PASSES = (ITEMS + THREADS - 1) / THREADS, BATCH = ASYNC ? 1 : PASSES < 4 ? PASSES : 4;
#pragma unroll(PASSES <= 12 ? PASSES : 4)
  for (int pass = 0; pass < PASSES; pass += BATCH) {
    Vec<pixel_t, VEC> pieces[BATCH];
    int places[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
      const int item = (pass + b) * THREADS + threadIdx.x;
      const int c = INNER ? item % CHANNELS : item / CHUNKS % CHANNELS;
      const int chunk = INNER ? item / CHANNELS % CHUNKS : item % CHUNKS;
      const int row = item / (CHANNELS * CHUNKS);
      const bool exists = ITEMS % THREADS == 0 && PASSES % BATCH == 0 || item < ITEMS;
      const bool inside = exists && (unsigned)(y0 + row) < (unsigned)IH && (unsigned)(x0 + chunk * VEC) < (unsigned)IW;
      const pixel_t* const from = corner + (row * XH + c * XC + chunk * VEC * XW);
      places[b] = exists ? (row * CHANNELS + c) * PITCH * 4 + chunk * VEC * 2 : -1;
      if constexpr (!ASYNC) {
        pieces[b] = load_vec_if<VEC>(from, inside);
      } else if (exists) {
        if constexpr (VEC == 8) {
          cp_async16(to + places[b], inside ? from : x, inside);
        } else {
          cp_async<2 * VEC>(to + places[b], inside ? from : x, inside);
        }
      }
    }
    if constexpr (!ASYNC) {
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        Vec<element_t, VEC> piece;
#pragma unroll
        for (int e = 0; e < VEC; ++e) piece.v[e] = narrow<element_t>(widen(pieces[b].v[e]));
        if (places[b] >= 0) store_vec<VEC>(reinterpret_cast<element_t*>(to + places[b]), piece);
      }
    }
  }
}

// What of pair `pair` of a line belongs to the window.
DEVICE uint32_t mask_of(int pair) {
  const bool low = 2 * pair >= FIRST && 2 * pair < FIRST + KW, high = 2 * pair + 1 < FIRST + KW;
  return (low ? 0xffffu : 0u) | (high ? 0xffff0000u : 0u);
}

// The operand register of half `half` of a step: `pixel` is the lane's at line 0, `mask` that of its pair where lines are
// short.
DEVICE uint32_t pixel_pair(const uint32_t* pixel, int half, uint32_t mask, int shift) {
  const int lane = threadIdx.x % 4;
  const int line = half * 4 / PAIRS, pair = half * 4 % PAIRS;
  const bool exists = line + (PAIRS < 4 ? lane / (PAIRS < 4 ? PAIRS : 1) : 0) < LINES;
  // Where it is known that there is none, nothing is read.
  if (line >= LINES) return 0;
  const uint32_t* const from = pixel + (line * PITCH + pair);
  uint32_t value = 0;
  if (PAIRS >= 4 || line + 3 / PAIRS < LINES || exists) {
    value = from[0];
    if (ODD) value = __funnelshift_r(value, from[1], shift);
  }
  if constexpr (PAIRS > 4) mask = mask_of(pair + lane);
  return FIRST == 0 && KW == 2 * PAIRS ? value : value & mask;
}

// Registers of all rows of a step.
DEVICE void load_step(uint32_t (&a)[MI][4], const uint32_t* pixels, int step, uint32_t mask, int shift) {
#pragma unroll
  for (int i = 0; i < MI; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int eight = 2 * i + e;
      const uint32_t* const pixel = pixels + (eight / (TW / 8) * (SH * CHANNELS * PITCH) + eight % (TW / 8) * (8 * SW / 2));
      a[i][e] = pixel_pair(pixel, 2 * step, mask, shift);
      a[i][2 + e] = pixel_pair(pixel, 2 * step + 1, mask, shift);
    }
  }
}

#if POOLED
// Where in shared memory 8 filters of a result are.
DEVICE int place_of(int slot, int column, int unit) {
  return ((slot * TW + column) * UNITS + (UNITS % 8 == 0 ? unit ^ column % 2 * 4 : unit)) * 16;
}

// The larger ones of two pairs of halves; NaN in either gives NaN.
DEVICE uint32_t larger(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 800
  uint32_t y;
  if constexpr (BRAIN) {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  }
  return y;
#else
  const auto one = [](uint32_t a, uint32_t b) {
    result_t x, y;
    x.bits = a;
    y.bits = b;
    return pw_max(to_float(x), to_float(y));
  };
  return pack2<result_t>(one(a & 0xffff, b & 0xffff), one(a >> 16, b >> 16));
#endif
}

// Calls `store` with the maxima that a patch completes: of `rows` rows from row `from` on of a strip that begins at (y, x).
template <class Store>
DEVICE void store_maxima(const unsigned char* results, int from, int rows, int y, int x, const Store& store SYMBOL_PARAMS) {
#pragma unroll 1
  for (int item = threadIdx.x; item < rows * (WINDOWS * UNITS); item += THREADS) {
    const int unit = item % UNITS, window = item / UNITS % WINDOWS, row = from + item / (WINDOWS * UNITS);
    if (y + row >= POOL_OH || x + window >= POOL_OW) continue;
    uint4 most;
    int slot = row * POOL_SH % RING;
#pragma unroll
    for (int i = 0; i < POOL_KH; ++i, slot = slot + 1 == RING ? 0 : slot + 1) {
#pragma unroll
      for (int j = 0; j < POOL_KW; ++j) {
        const uint4 v = *reinterpret_cast<const uint4*>(results + place_of(slot, window * POOL_SW + j, unit));
        most = i + j == 0 ? v : make_uint4(larger(most.x, v.x), larger(most.y, v.y), larger(most.z, v.z), larger(most.w, v.w));
      }
    }
    store(most, y + row, x + window, unit);
  }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    KERNEL_NAME(const pixel_t* x, const unsigned char* w EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(1024) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quad = lane % 4;
  const int column0 = blockIdx.y * BN;
  // The weights depend on nothing: they are asked for before the kernel that writes the pixels has ended.
  w += (long long)blockIdx.y * WEIGHT_BYTES;
  for (int i = threadIdx.x * 16; i < WEIGHT_BYTES; i += THREADS * 16) cp_async16(shared + i, w + i, true);

  const int across = (POOL_OW + WINDOWS - 1) / WINDOWS, down = (POOL_OH + STRIP - 1) / STRIP;
  const int strips = N * across * down;
  // The first output pixel of a patch.
  const auto y_of = [&](int strip, int turn) {
    return strip / across % down * (STRIP * POOL_SH) - POOL_PH + turn * TH;
  };
  const auto x_of = [&](int strip) {
    return strip % across * (WINDOWS * POOL_SW) - POOL_PW;
  };
  const auto load = [&](int strip, int turn, int slot) {
    const int y0 = y_of(strip, turn) * SH - PH, x0 = x_of(strip) * SW - PW - LEAD;
    load_patch(shared + WEIGHT_BYTES + slot * PATCH_BYTES, x, strip / (across * down), y0, x0 SYMBOL_NAMES);
  };
  // The first of the warp's eights of pixels in its patch, and the lane's word in line 0 of the input under it.
  const int row0 = warp * 2 * MI / (TW / 8), x0 = warp * 2 * MI % (TW / 8) * 8;
  const int parity = ODD ? group % 2 : 0;
  const int pixel0 = row0 * (SH * CHANNELS * PITCH) + (LEAD - FIRST) / 2 + x0 * SW / 2 + (group * SW - parity) / 2 +
                     (PAIRS >= 4 ? quad : PAIRS == 2 ? quad / 2 * PITCH + quad % 2 : quad * PITCH);
  const uint32_t mask = mask_of(quad % PAIRS);
  const Epilogue epilogue = EPILOGUE;
#if POOLED
  unsigned char* const results = shared + WEIGHT_BYTES + 2 * PATCH_BYTES;
#endif

  int strip = blockIdx.x, turn = 0;
  dependency_wait();
  if (strip < strips) load(strip, 0, 0);
  cp_async_commit();
  for (int slot = 0; strip < strips; slot ^= 1) {
    cp_async_wait<0>();
#if WGMMA
    if (strip == blockIdx.x && turn == 0) fence_async_shared();   // the weights
#endif
    __syncthreads();   // and everybody is done with the other slot
    int next = strip, then = turn + 1;
    // Patches below the last window are left out.
    if (then == TURNS || strip / across % down * STRIP + (FIRST_ROWS + turn * MORE_ROWS) >= POOL_OH) next += gridDim.x, then = 0;
    if (next < strips) {
      load(next, then, slot ^ 1);
      cp_async_commit();
    } else {
      launch_dependents();
    }
    const uint32_t* const pixels = reinterpret_cast<const uint32_t*>(shared + WEIGHT_BYTES + slot * PATCH_BYTES) + pixel0;
    float acc[MI][NI * 4] = {};
#if WGMMA
    // Pixels of AHEAD steps are read before the first is multiplied, further ones where half of these are done.
    const uint64_t weights = wgmma_operand(shared_address(shared));
    constexpr int DONE = AHEAD / 2;
    uint32_t a[AHEAD][MI][4];
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) load_step(a[step], pixels, step, mask, parity * 16);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      if (step == 0 || AHEAD < STEPS) wgmma_fence();
#pragma unroll
      for (int i = 0; i < MI; ++i) wgmma_values(acc[i], a[step % AHEAD][i], weights + step * 128, step > 0);
      wgmma_commit();
      if (step >= DONE && step - DONE + AHEAD < STEPS) {
        wgmma_wait<DONE>();
        load_step(a[(step - DONE) % AHEAD], pixels, step - DONE + AHEAD, mask, parity * 16);
      }
    }
    wgmma_wait<0>();
#else
#pragma unroll(STEPS <= 16 ? STEPS : 1)
    for (int step = 0; step < STEPS; ++step) {
      uint32_t a[MI][4];
      load_step(a, pixels, step, mask, parity * 16);
#pragma unroll
      for (int j = 0; j < NI / 2; ++j) {
        const uint4 b = *reinterpret_cast<const uint4*>(shared + ((step * (BN / 16) + j) * 32 + lane) * 16);
#pragma unroll
        for (int i = 0; i < MI; ++i) {
          mma_m16n8k16<element_t>(reinterpret_cast<float(&)[4]>(acc[i][8 * j]), a[i], {b.x, b.y});
          mma_m16n8k16<element_t>(reinterpret_cast<float(&)[4]>(acc[i][8 * j + 4]), a[i], {b.z, b.w});
        }
      }
    }
#endif

    const int y = y_of(strip, turn) + row0, column = x_of(strip) + x0 + group;
    const int image = strip / (across * down);
    const index_t row = (index_t)image * OH + y;
    index_t to[2];
    typename Epilogue::template Reads<WIDTH> reads[2][SETS][PARTS];
    // What an eight of pixels reads besides is under way while the one before is stored.
    const auto ask = [&](int eight) {
      const int dy = eight / (TW / 8), dx = eight % (TW / 8) * 8;
      const bool exists = (unsigned)(y + dy) < (unsigned)OH && (unsigned)(column + dx) < (unsigned)OW;
      to[eight % 2] = exists ? ((row + dy) * OW + column + dx) * FILTERS + column0 + quad * (2 * TOGETHER) : -1;
#pragma unroll
      for (int s = 0; s < SETS; ++s) {
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          const int n = s * (8 * TOGETHER) + p * WIDTH;
          // The first elements in the place of those that do not exist: a branch would cost more.
          const bool read = exists && (FILTERS % BN == 0 || column0 + quad * (2 * TOGETHER) + n < FILTERS);
          reads[eight % 2][s][p] = epilogue.template read<WIDTH>(read ? to[eight % 2] + n : 0);
        }
      }
    };
    ask(0);
#pragma unroll
    for (int eight = 0; eight < 2 * MI; ++eight) {
      if (eight + 1 < 2 * MI) ask(eight + 1);
#if !POOLED
      if (to[eight % 2] < 0) continue;
#endif
#pragma unroll
      for (int s = 0; s < SETS; ++s) {
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          const int n = s * (8 * TOGETHER) + p * WIDTH;
          acc_t sum[WIDTH];
#pragma unroll
          for (int i = 0; i < WIDTH; ++i) {
            const int at = p * WIDTH + i;
            sum[i] = acc[eight / 2][(s * TOGETHER + at / 2) * 4 + eight % 2 * 2 + at % 2];
          }
          const bool is_filter = FILTERS % BN == 0 || column0 + quad * (2 * TOGETHER) + n < FILTERS;
#if POOLED
          // -inf where there is no result.
          constexpr uint32_t LEAST = BRAIN ? 0xff80ff80 : 0xfc00fc00;
          uint4 halves = make_uint4(LEAST, LEAST, LEAST, LEAST);
          if (to[eight % 2] >= 0 && is_filter) {
            const auto result = epilogue.template result<WIDTH>(sum, to[eight % 2] + n, reads[eight % 2][s][p]);
            halves = *reinterpret_cast<const uint4*>(result.v);
          }
          const int slot = (turn * TH + row0 + eight / (TW / 8)) % RING;
          *reinterpret_cast<uint4*>(results + place_of(slot, x0 + group + eight % (TW / 8) * 8, s * 4 + quad)) = halves;
#else
          if (is_filter) epilogue.template store<WIDTH>(sum, to[eight % 2] + n, reads[eight % 2][s][p]);
#endif
        }
      }
    }
#if POOLED
    __syncthreads();
    const int first = strip / across % down * STRIP;
    store_maxima(results, turn == 0 ? 0 : FIRST_ROWS + (turn - 1) * MORE_ROWS, turn == 0 ? FIRST_ROWS : MORE_ROWS, first,
                 strip % across * WINDOWS, [&](const uint4& most, int y, int x, int unit) {
      const index_t at = (((index_t)image * POOL_OH + y) * POOL_OW + x) * FILTERS + column0 + unit * 8;
      if (FILTERS % BN != 0 && column0 + unit * 8 >= FILTERS) return;
#if PLACED
      Vec<result_t, 8> halves;
      *reinterpret_cast<uint4*>(halves.v) = most;
      float values[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] = to_float(halves.v[i]);
      const Between maxima = BETWEEN(epilogue.out);
      maxima.store<8>(values, at, {});
#else
      *reinterpret_cast<uint4*>(epilogue.out + at) = most;
#endif
    } SYMBOL_NAMES);
#endif
    strip = next;
    turn = then;
  }
}
