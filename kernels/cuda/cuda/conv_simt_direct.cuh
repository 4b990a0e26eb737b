// conv.simt, direct: one thread sums one output element, with the weights as the model has them. For weights that are
// computed at run time and for groups too small to tile. Pixels may be of any type and lie anywhere.

extern "C" __global__ void __launch_bounds__(128)
    KERNEL_NAME(const pixel_t* x, const element_t* w
#if SCALED
                , const element_t* scales
#endif
#if ADDED_CHANNELS
                , const element_t* added_x, const element_t* added_w
#endif
                EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  const index_t i = (index_t)blockIdx.x * 128 + threadIdx.x;
  const index_t pixels = OD * OH * OW;
  launch_dependents();
  dependency_wait();
  if (i >= M * FILTERS) return;
  const int filter = LAST ? i % FILTERS : i / pixels % FILTERS;
  const index_t pixel = LAST ? i / FILTERS % pixels : i % pixels;
  const index_t image = i / (pixels * FILTERS);
  const int z0 = pixel / (OH * OW) * SD - PD, y0 = pixel / OW % OH * SH - PH, x0 = pixel % OW * SW - PW;
  const pixel_t* from = x + (OFFSET + image * XN + (index_t)(filter / NG * CG) * XC);
  const element_t* weights = w + (index_t)filter * (CG * KD * KH * KW);
  acc_t sum[1] = {0};
  for (int a = 0; a < KD; ++a) {
    const int z = z0 + a * DD;
    if ((unsigned)z >= (unsigned)ID) continue;
    for (int r = 0; r < KH; ++r) {
      const int y = y0 + r * DH;
      if ((unsigned)y >= (unsigned)IH) continue;
      for (int s = 0; s < KW; ++s) {
        const int column = x0 + s * DW;
        if ((unsigned)column >= (unsigned)IW) continue;
        const pixel_t* at = from + (z * XD + y * XH + column * XW);
        const element_t* tap = weights + (a * KH + r) * KW + s;
#pragma unroll 4
        for (int c = 0; c < CG; ++c) {
          acc_t value = widen(narrow<element_t>(widen(at[c * XC])));
#if SCALED
          value = widen(narrow<element_t>(value * widen(scales[image * CHANNELS + filter / NG * CG + c])));
#endif
          sum[0] += value * widen(tap[c * (KD * KH * KW)]);
        }
      }
    }
  }
#if ADDED_CHANNELS
  const index_t z = pixel / (OH * OW) * ADDED_SD, y = pixel / OW % OH * ADDED_SH, column = pixel % OW * ADDED_SW;
  if (z < ADDED_ID && y < ADDED_IH && column < ADDED_IW) {
    const index_t size = ADDED_ID * ADDED_IH * ADDED_IW, at = (z * ADDED_IH + y) * ADDED_IW + column;
    added_x += image * size * ADDED_CHANNELS + at * (LAST ? ADDED_CHANNELS : 1);
    added_w += (index_t)filter * ADDED_CHANNELS;
    const index_t apart = LAST ? 1 : size;
#pragma unroll 4
    for (int c = 0; c < ADDED_CHANNELS; ++c) sum[0] += widen(added_x[c * apart]) * widen(added_w[c]);
  }
#endif
  EPILOGUE.store<1>(sum, i);
}
