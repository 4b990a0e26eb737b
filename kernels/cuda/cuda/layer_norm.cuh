// Normalises rows of LEN contiguous elements: GROUP threads for each row, ROWS rows in a block. Two passes for the
// statistics. RESIDENT: a row stays in registers, CHUNKS vectors of V per thread; otherwise it is read once a pass.

#if BIAS
#define BIAS_PARAM , const elem_t* bias
#else
#define BIAS_PARAM
#endif

extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
  KERNEL_NAME(const elem_t* x, const elem_t* scale BIAS_PARAM EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN;
  const index_t row = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool live = row < index_t(OUTER);
  const index_t at = live ? row * len : 0;
  const Epilogue epilogue = EPILOGUE;
  const acc_t share = acc_t(1) / acc_t(len);

  // What a vector is scaled by, and what is added.
  struct Parameters {
    Vec<elem_t, V> scale, bias;
  };
  auto parameters = [&](index_t i) {
    Parameters p;
    p.scale = load_vec<V>(scale + i);
#if BIAS
    p.bias = load_vec<V>(bias + i);
#endif
    return p;
  };
  auto finish = [&](acc_t(&v)[V], index_t i, acc_t mean, acc_t factor, const Parameters& p) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = (v[j] - mean) * factor * widen(p.scale.v[j]);
#if BIAS
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] += widen(p.bias.v[j]);
#endif
    epilogue.store(v, at + i);
  };

  acc_t mean = 0, sum = 0;
#if RESIDENT
  acc_t v[CHUNKS][V];
  // Few of them are asked for with the row, for their way from memory to cost nothing.
  constexpr bool EARLY = CHUNKS * V <= 32;
  Parameters early[EARLY ? CHUNKS : 1];
  Vec<elem_t, V> raw[CHUNKS];
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    // Without a condition, where every load would be waited for.
    const index_t i = (c * GROUP + lane) * V, from = i < len ? i : 0;
    raw[c] = load_vec<V>(x + at + from);
    if (EARLY) early[EARLY ? c : 0] = parameters(from);
  }
  launch_dependents();
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const bool inside = (c * GROUP + lane) * V < len;
#pragma unroll
    for (int j = 0; j < V; ++j) v[c][j] = inside ? widen(raw[c].v[j]) : acc_t(0);
  }
#if !RMS
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
    for (int j = 0; j < V; ++j) sum += v[c][j];
  }
  mean = group_sum<GROUP>(sum) * share;
  sum = 0;
#endif
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if ((c * GROUP + lane) * V < len) {
#pragma unroll
      for (int j = 0; j < V; ++j) sum += (v[c][j] - mean) * (v[c][j] - mean);
    }
  }
  const acc_t factor = rsqrt(group_sum<GROUP>(sum) * share + acc_t(EPSILON));
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const index_t i = (c * GROUP + lane) * V;
    if (live && i < len) finish(v[c], i, mean, factor, EARLY ? early[EARLY ? c : 0] : parameters(i));
  }
#else
  acc_t v[V];
#if !RMS
  if (live) {
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      load_wide(v, x + at + i);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += v[j];
    }
  }
  mean = group_sum<GROUP>(sum) * share;
  sum = 0;
#endif
  if (live) {
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      load_wide(v, x + at + i);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += (v[j] - mean) * (v[j] - mean);
    }
  }
  launch_dependents();
  const acc_t factor = rsqrt(group_sum<GROUP>(sum) * share + acc_t(EPSILON));
  if (!live) return;
#pragma unroll 2
  for (index_t i = lane * V; i < len; i += GROUP * V) {
    load_wide(v, x + at + i);
    finish(v, i, mean, factor, parameters(i));
  }
#endif
}
