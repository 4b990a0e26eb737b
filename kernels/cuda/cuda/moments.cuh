// Moments of rows: of every 32 elements their sum, and the sum of their squares about their mean. Four neighbouring lanes are at
// one row together, whatever others do.

DEVICE float quad_sum(float x) {
  const uint32_t lanes = 0xfu << (threadIdx.x & 28);
  x += __shfl_xor_sync(lanes, x, 1);
  return x + __shfl_xor_sync(lanes, x, 2);
}

// Of a row: its mean, or 0, and its reciprocal deviation from it.
struct RowStatistics {
  float mean, rate;
};

template <int LEN, bool RMS> DEVICE RowStatistics row_statistics(const float* moments, index_t row, float epsilon) {
  constexpr int SPANS = LEN / 32, WIDE = SPANS % 2 == 0 ? 2 : 1;   // spans to a load
  constexpr int LOADS = (SPANS / WIDE + 3) / 4;
  const float* const from = moments + row * (SPANS * 2);
  Vec<float, 2 * WIDE> spans[LOADS];
  float mean = 0;
#pragma unroll
  for (int l = 0; l < LOADS; ++l) {
    const int at = l * 4 + threadIdx.x % 4;
    if (SPANS / WIDE % 4 == 0 || at < SPANS / WIDE) spans[l] = load_vec<2 * WIDE>(from + at * (2 * WIDE));
  }
  const auto each = [&](auto f) {
    float sum = 0;
#pragma unroll
    for (int l = 0; l < LOADS; ++l) {
      if (SPANS / WIDE % 4 != 0 && l * 4 + threadIdx.x % 4 >= SPANS / WIDE) continue;
#pragma unroll
      for (int s = 0; s < WIDE; ++s) sum += f(spans[l].v[2 * s], spans[l].v[2 * s + 1]);
    }
    return quad_sum(sum) / LEN;
  };
  if (!RMS) mean = each([](float sum, float) { return sum; });
  const float variance = each([&](float sum, float squares) {
    const float off = sum / 32 - mean;
    return squares + 32 * off * off;
  });
  return {mean, rsqrtf(variance + epsilon)};
}

// Elements i to i + 7 of rows of whole 32s, the same of three neighbours beside.
template <class T> DEVICE void store_moments(float* moments, index_t i, const Vec<T, 8>& x) {
  float sum = 0, squares = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += widen(x.v[j]);
  sum = quad_sum(sum);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float off = widen(x.v[j]) - sum / 32;
    squares += off * off;
  }
  squares = quad_sum(squares);
  if (i % 32 == 0) *reinterpret_cast<float2*>(moments + i / 16) = make_float2(sum, squares);
}
