// Rows of a result whose columns do not come in fours begin at any element. Four neighbouring lanes have 32 columns of one, eight
// neighbours each. Words leave as they are, neighbouring words by neighbouring lanes. Of halves, each lane gets so many from its
// right neighbour, and gives as many to its left one, that its eight begin at 16 bytes of memory.

// What a thread has of halves of the slab before: its last lane waits for the first of the next.
struct Run {
  uint32_t held[2][4];
};

// Eight halves from half h of eight words on, h below 8.
DEVICE uint4 shifted(const uint32_t (&a)[8], int h) {
  uint32_t b[6], d[5];
#pragma unroll
  for (int i = 0; i < 6; ++i) b[i] = h & 4 ? a[i + 2] : a[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) d[i] = h & 2 ? b[i + 1] : b[i];
  const int by = (h & 1) * 16;
  return make_uint4(__funnelshift_r(d[0], d[1], by), __funnelshift_r(d[1], d[2], by), __funnelshift_r(d[2], d[3], by),
                    __funnelshift_r(d[3], d[4], by));
}

// Stores the first `count` of eight halves, more than eight for all of them.
DEVICE void store_halves(unsigned short* to, const uint4& x, int count) {
  if (count >= 8) {
    *reinterpret_cast<uint4*>(to) = x;
    return;
  }
  const uint32_t w[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 7; ++i)
    if (i < count) to[i] = (unsigned short)(w[i / 2] >> i % 2 * 16);
}

// By a warp: slab `slab` of SLABS beside each other, of 16 rows and 32 columns. x: this thread's eight columns of rows lane / 4
// and lane / 4 + 8; `to`: where they go, -1 for rows that do not exist; `count`: columns from the slab's first on that do.
template <int SLABS, class T>
DEVICE void store_runs(T* out, Run& run, const Vec<T, 8> (&x)[2], const index_t (&to)[2], int slab, int count) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "words, or halves of them");
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool exists = to[half] >= 0;
    if constexpr (sizeof(T) == 4) {
      uint32_t* const row = reinterpret_cast<uint32_t*>(out) + (to[half] - c * 8);
#pragma unroll
      for (int h = 0; h < 8; h += 4) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = reinterpret_cast<const uint32_t*>(x[half].v)[h + i];
        transpose_quad(w);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (exists && i * 8 + h + c < count) row[i * 8 + h + c] = w[i];
      }
    } else {
      uint32_t w[4], a[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = reinterpret_cast<const uint32_t*>(x[half].v)[i];
      unsigned short* const mine = reinterpret_cast<unsigned short*>(out) + to[half];
      // Halves of the row before the first that is aligned: 32 and 8 columns later it is as many.
      const int h = -(int)to[half] & 7, first = c * 8 + h;
      const auto with_right = [&](const uint32_t (&own)[4], const uint32_t (&next)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = own[i];
          a[i + 4] = __shfl_sync(0xffffffffu, c == 0 ? next[i] : own[i], threadIdx.x % 32 / 4 * 4 + (c + 1) % 4);
        }
      };
      if (slab > 0) {
        with_right(run.held[half], w);
        if (exists) store_halves(mine - 32 + h, shifted(a, h), count + 32 - first);
      } else if (exists && c == 0) {
        store_halves(mine, make_uint4(w[0], w[1], w[2], w[3]), min(h, count));
      }
      if (slab == SLABS - 1) {
        with_right(w, w);
        if (exists) store_halves(mine + h, shifted(a, h), min(count, 32) - first);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) run.held[half][i] = w[i];
    }
  }
}
