// Normalises groups of PER channels over all positions of an image. Channels first, a group is contiguous; channels last, it is
// PER neighbouring elements of each position. Either way it is walked in vectors of V elements that share an image and group.

constexpr int PER = CHANNELS / GROUPS;

// How many values, their mean, and the sum of squared distances from it.
struct Moments {
  acc_t count, mean, squares;
};
DEVICE Moments merge(Moments a, Moments b) {
  const acc_t count = a.count + b.count;
  if (count == acc_t(0)) return a;
  const acc_t share = b.count / count, distance = b.mean - a.mean;
  return Moments{count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// Where vector `i` of a group lies.
struct Place {
  index_t at;
  int channel;
};
DEVICE Place place(index_t image, int group, index_t i, index_t spatial) {
  if (CHANNELS_LAST) {
    constexpr int vectors = PER / V > 0 ? PER / V : 1;
    const int channel = group * PER + i % vectors * V;
    return Place{(image * spatial + i / vectors) * CHANNELS + channel, channel};
  }
  return Place{(image * GROUPS + group) * PER * spatial + i * V, group * PER + int(i * V / spatial)};
}

#if !STATISTICS
DEVICE void finish(acc_t (&v)[V], Place p, acc_t mean, acc_t factor, const elem_t* scale, const elem_t* bias,
                   const Epilogue& epilogue) {
  acc_t s[V], b[V];
  if (CHANNELS_LAST) {
    load_wide(s, scale + p.channel);
    load_wide(b, bias + p.channel);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      s[j] = widen(scale[p.channel]);
      b[j] = widen(bias[p.channel]);
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) v[j] = (v[j] - mean) * factor * s[j] + b[j];
  epilogue.store(v, p.at);
}
#endif

DEVICE acc_t factor_of(acc_t squares, acc_t count) { return rsqrt(squares / count + acc_t(EPSILON)); }

#if SPLITS > 1
// Block (group, part): SPLITS parts of each group.
#define PART                                                           \
  const index_t spatial = SPATIAL, vectors = spatial * PER / V;        \
  const index_t which = blockIdx.x / SPLITS, image = which / GROUPS;   \
  const int group = which % GROUPS, split = blockIdx.x % SPLITS;       \
  const index_t chunk = (vectors + SPLITS - 1) / SPLITS;               \
  const index_t begin = split * chunk, end = min(vectors, begin + chunk);
#endif

#if STATISTICS
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const elem_t* x, Moments* parts SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  PART
  acc_t v[V], sum = 0;
#pragma unroll 4
  for (index_t i = begin + threadIdx.x; i < end; i += THREADS) {
    load_wide(v, x + place(image, group, i, spatial).at);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += v[j];
  }
  const acc_t count = acc_t(max(end - begin, index_t(0))) * V;
  const acc_t mean = count > acc_t(0) ? group_sum<THREADS>(sum) / count : acc_t(0);
  sum = 0;
#pragma unroll 4
  for (index_t i = begin + threadIdx.x; i < end; i += THREADS) {
    load_wide(v, x + place(image, group, i, spatial).at);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += (v[j] - mean) * (v[j] - mean);
  }
  launch_dependents();
  sum = group_sum<THREADS>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = Moments{count, mean, sum};
}

#elif SPLITS > 1
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const elem_t* x, const elem_t* scale, const elem_t* bias,
                const Moments* parts EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  PART
  const int lane = threadIdx.x % 32;
  Moments all = {};
  if (lane < SPLITS) all = parts[which * SPLITS + lane];
  all = lanes_combine<32>(all, [](Moments a, Moments b) { return merge(a, b); });
  const acc_t factor = factor_of(all.squares, all.count);
  const Epilogue epilogue = EPILOGUE;
#pragma unroll 2
  for (index_t i = begin + threadIdx.x; i < end; i += THREADS) {
    const Place p = place(image, group, i, spatial);
    acc_t v[V];
    load_wide(v, x + p.at);
    finish(v, p, all.mean, factor, scale, bias, epilogue);
  }
  launch_dependents();
}

#else
// One block for each group. RESIDENT: it stays in registers, CHUNKS vectors per thread; otherwise it is read once a pass.
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const elem_t* x, const elem_t* scale,
                const elem_t* bias EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t spatial = SPATIAL, vectors = spatial * PER / V, image = blockIdx.x / GROUPS;
  const int group = blockIdx.x % GROUPS;
  const acc_t count = acc_t(spatial * PER);
  const Epilogue epilogue = EPILOGUE;
  acc_t sum = 0;
#if RESIDENT
  acc_t v[CHUNKS][V];
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const index_t i = c * THREADS + threadIdx.x;
#pragma unroll
    for (int j = 0; j < V; ++j) v[c][j] = 0;
    if (i < vectors) load_wide(v[c], x + place(image, group, i, spatial).at);
  }
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
    for (int j = 0; j < V; ++j) sum += v[c][j];
  }
  const acc_t mean = group_sum<THREADS>(sum) / count;
  sum = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if (c * THREADS + threadIdx.x < vectors) {
#pragma unroll
      for (int j = 0; j < V; ++j) sum += (v[c][j] - mean) * (v[c][j] - mean);
    }
  }
  launch_dependents();
  const acc_t factor = factor_of(group_sum<THREADS>(sum), count);
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const index_t i = c * THREADS + threadIdx.x;
    if (i < vectors) finish(v[c], place(image, group, i, spatial), mean, factor, scale, bias, epilogue);
  }
#else
  acc_t v[V];
#pragma unroll 4
  for (index_t i = threadIdx.x; i < vectors; i += THREADS) {
    load_wide(v, x + place(image, group, i, spatial).at);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += v[j];
  }
  const acc_t mean = group_sum<THREADS>(sum) / count;
  sum = 0;
#pragma unroll 4
  for (index_t i = threadIdx.x; i < vectors; i += THREADS) {
    load_wide(v, x + place(image, group, i, spatial).at);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += (v[j] - mean) * (v[j] - mean);
  }
  launch_dependents();
  const acc_t factor = factor_of(group_sum<THREADS>(sum), count);
#pragma unroll 2
  for (index_t i = threadIdx.x; i < vectors; i += THREADS) {
    const Place p = place(image, group, i, spatial);
    load_wide(v, x + p.at);
    finish(v, p, mean, factor, scale, bias, epilogue);
  }
#endif
}
#endif
