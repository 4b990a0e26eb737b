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
  float first;   // of the row's first span, its sum
  Vec<float, 2 * WIDE> spans[LOADS];

  static DEVICE bool has(int load) { return ALL % 4 == 0 || load * 4 + (int)threadIdx.x % 4 < ALL; }

  DEVICE RowParts() {}
  DEVICE RowParts(const float* moments, index_t row) {
    moments += row * (SPANS * 2);
    first = *moments;
    const float* const from = moments + threadIdx.x % 4 * (2 * WIDE);
#pragma unroll
    for (int l = 0; l < LOADS; ++l)
      if (has(l)) spans[l] = load_vec<2 * WIDE>(from + l * (8 * WIDE));
  }
};

// Deviations are from the first span's mean, for both sums to be on their way between lanes at the same time. The square of its own is at
// most SPANS times the variance, so that their difference loses few digits.
template <bool RMS, int LEN> DEVICE RowStatistics row_statistics(const RowParts<LEN>& parts, float epsilon) {
  typedef RowParts<LEN> Parts;
  const float pivot = RMS ? 0 : parts.first * (1.f / 32);
  float offs = 0, squares = 0;
#pragma unroll
  for (int l = 0; l < Parts::LOADS; ++l) {
#pragma unroll
    for (int s = 0; s < Parts::WIDE; ++s) {
      if (!Parts::has(l)) continue;
      const float off = parts.spans[l].v[2 * s] * (1.f / 32) - pivot;
      offs += off;
      squares += parts.spans[l].v[2 * s + 1] + 32 * off * off;
    }
  }
  squares = quad_sum(squares) * (1.f / LEN);
  const float off = RMS ? 0 : quad_sum(offs) * (1.f / Parts::SPANS);
  return {RMS ? 0 : pivot + off, rsqrtf(squares - off * off + epsilon)};
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
