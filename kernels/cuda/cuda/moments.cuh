// Moments of rows: of every 32 elements their sum, and the sum of their squares about their mean. Four neighbouring lanes are at
// one row, and all of a warp come here together: with a mask of four, each shuffle would first find out who is there.

DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Of a row: its mean, or 0, and its reciprocal deviation from it.
struct RowStatistics {
  float mean, rate;
};

// What this lane has of a row of LEN elements.
template <int LEN> struct RowParts {
  static constexpr int SPANS = LEN / 32, WIDE = SPANS % 2 == 0 ? 2 : 1;   // spans to a load
  static constexpr int ALL = SPANS / WIDE, LOADS = (ALL + 3) / 4;
  Vec<float, 2 * WIDE> spans[LOADS];

  static DEVICE bool has(int load) { return ALL % 4 == 0 || load * 4 + (int)threadIdx.x % 4 < ALL; }

  DEVICE RowParts() {}
  DEVICE RowParts(const float* moments, index_t row) {
    const float* const from = moments + row * (SPANS * 2) + threadIdx.x % 4 * (2 * WIDE);
#pragma unroll
    for (int l = 0; l < LOADS; ++l)
      if (has(l)) spans[l] = load_vec<2 * WIDE>(from + l * (8 * WIDE));
  }

  // The mean of LEN values, those of each span together.
  template <class F> DEVICE float mean_of(F f) const {
    float sum = 0;
#pragma unroll
    for (int l = 0; l < LOADS; ++l) {
#pragma unroll
      for (int s = 0; s < WIDE; ++s)
        if (has(l)) sum += f(spans[l].v[2 * s], spans[l].v[2 * s + 1]);
    }
    return quad_sum(sum) * (1.f / LEN);
  }
};

template <bool RMS, int LEN> DEVICE RowStatistics row_statistics(const RowParts<LEN>& parts, float epsilon) {
  float mean = 0;
  if (!RMS) mean = parts.mean_of([](float sum, float) { return sum; });
  const float variance = parts.mean_of([&](float sum, float squares) {
    const float off = sum * (1.f / 32) - mean;
    return squares + 32 * off * off;
  });
  return {mean, rsqrtf(variance + epsilon)};
}

// Elements i to i + 7 of rows of whole 32s, the same of three neighbours beside. Nothing is stored where i is negative.
template <class T> DEVICE void store_moments(float* moments, index_t i, const Vec<T, 8>& x) {
  float sum = 0, squares = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += widen(x.v[j]);
  sum = quad_sum(sum);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float off = widen(x.v[j]) - sum * (1.f / 32);
    squares += off * off;
  }
  squares = quad_sum(squares);
  if (i >= 0 && i % 32 == 0) *reinterpret_cast<float2*>(moments + i / 16) = make_float2(sum, squares);
}
