// Windows of a convolution over pixels: where each begins, and which of its taps are inside the image.

constexpr int TAPS = KH * KW;
constexpr bool DENSE_MASK = TAPS <= 32;
static_assert(DENSE_MASK || (KH <= 16 && KW <= 16), "a tap mask is 32 bits");

// An output pixel's window: where its first tap lies, and which taps are inside the image.
struct Window {
  index_t offset;
  unsigned mask;
};

DEVICE Window locate(index_t m SYMBOL_PARAMS) {
  Window window;
  if (POINTWISE) {
    window.offset = m * CHANNELS;
    window.mask = m < M ? ~0u : 0u;
    return window;
  }
  const index_t image = m / (OH * OW), pixel = m % (OH * OW);
  const index_t y = pixel / OW * SH - PH, x = pixel % OW * SW - PW;
  window.offset = ((image * IH + y) * IW + x) * CHANNELS;
  unsigned rows = 0, columns = 0;
#pragma unroll
  for (int r = 0; r < KH; ++r) rows |= (unsigned)(y + r * DH) < (unsigned)IH ? 1u << r : 0u;
#pragma unroll
  for (int s = 0; s < KW; ++s) columns |= (unsigned)(x + s * DW) < (unsigned)IW ? 1u << s : 0u;
  if (DENSE_MASK) {
    window.mask = 0;
#pragma unroll
    for (int r = 0; r < KH; ++r) window.mask |= rows >> r & 1 ? columns << r * (DENSE_MASK ? KW : 0) : 0u;
  } else {
    window.mask = rows | columns << 16;
  }
  if (m >= M) window.mask = 0;
  return window;
}
