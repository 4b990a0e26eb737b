// Pooling over RANK spatial dimensions.

enum Kind { MAX, AVERAGE, LP };

// Below every element.
template <class C> DEVICE C lowest() { return C(-infinity<C>()); }
template <> DEVICE long long lowest<long long>() { return (long long)0x8000000000000000ull; }

DEVICE acc_t start() { return KIND == MAX ? lowest<acc_t>() : acc_t(0); }
DEVICE acc_t merge(acc_t a, acc_t b) { return KIND == MAX ? pw_max(a, b) : a + b; }
DEVICE void see(acc_t& s, acc_t x) {
  if constexpr (KIND == LP) {
    acc_t power = 1;
    const acc_t size = x < acc_t(0) ? -x : x;
#pragma unroll
    for (int p = 0; p < POWER; ++p) power *= size;
    s += power;
  } else {
    s = merge(s, x);
  }
}
DEVICE acc_t finish(acc_t s, index_t count) {
  if constexpr (KIND == AVERAGE) return pw_div(s, acc_t(count));
#if FLOATING
  if constexpr (KIND == LP) return POWER == 1 ? s : POWER == 2 ? acc_t(sqrt(s)) : acc_t(pow(s, acc_t(1) / acc_t(POWER)));
#endif
  return s;
}

#if GLOBAL && CHANNELS_LAST
// The window is the whole of [N, LEN, CHANNELS]: a thread has V neighbouring channels, DEPTH threads share the positions.
extern "C" __global__ void __launch_bounds__(COLUMNS* DEPTH)
    KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ acc_t shares[DEPTH][COLUMNS * V];
  dependency_wait();
  const index_t len = LEN, channels = CHANNELS;
  const index_t column = (index_t(blockIdx.x) * COLUMNS + threadIdx.x) * V;
  const bool live = column < index_t(N) * channels;
  acc_t s[V];
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = start();
  if (live) {
    const elem_t* in = x + (column / channels * len * channels + column % channels);
#pragma unroll 4
    for (index_t l = threadIdx.y; l < len; l += DEPTH) {
      acc_t v[V];
      load_wide(v, in + l * channels);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s[j], v[j]);
    }
  }
  launch_dependents();
#pragma unroll
  for (int j = 0; j < V; ++j) shares[threadIdx.y][threadIdx.x * V + j] = s[j];
  __syncthreads();
  if (!live || threadIdx.y != 0) return;
#pragma unroll
  for (int j = 0; j < V; ++j) {
#pragma unroll
    for (int d = 1; d < DEPTH; ++d) s[j] = merge(s[j], shares[d][threadIdx.x * V + j]);
    s[j] = finish(s[j], len);
  }
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(s, column);
}

#elif GLOBAL
// The window is the whole of [N, CHANNELS, LEN]: GROUP threads for each channel, ROWS channels in a block.
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
    KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN;
  const index_t row = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool live = row < index_t(N) * index_t(CHANNELS);
  acc_t s = start();
  if (live) {
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      acc_t v[V];
      load_wide(v, x + row * len + i);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s, v[j]);
    }
  }
  launch_dependents();
  s = group_combine<GROUP>(s, [](acc_t a, acc_t b) { return merge(a, b); });
  if (!live || lane != 0) return;
  acc_t result[1] = {finish(s, len)};
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, row);
}

#else
// Calls `f` with the flat position of every window element inside the input.
template <int D, class F>
DEVICE void walk(const index_t (&first)[RANK], const index_t (&window)[RANK], const int (&step)[RANK],
                 const index_t (&extent)[RANK], index_t at, F& f) {
  if constexpr (D == RANK) {
    f(at);
  } else {
#pragma unroll UNROLL
    for (index_t r = 0; r < window[D]; ++r) {
      const index_t p = first[D] + r * step[D];
      if (p >= 0 && p < extent[D]) walk<D + 1>(first, window, step, extent, at * extent[D] + p, f);
    }
  }
}

// Window positions r with 0 <= first + r * step < end.
DEVICE index_t positions(index_t first, index_t window, int step, index_t end) {
  const index_t below = first < 0 ? (step - 1 - first) / step : 0;
  const index_t until = end > first ? (end - first + step - 1) / step : 0;
  return max(min(window, until) - below, index_t(0));
}

// A thread has V neighbouring channels (or one element, channels first).
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t input[RANK] = INPUT_SIZES, output[RANK] = OUTPUT_SIZES, window[RANK] = WINDOW_SIZES;
  const int stride[RANK] = STRIDES, step[RANK] = DILATIONS, pad[RANK] = PADS, pad_end[RANK] = PADS_END;
  const index_t channels = CHANNELS;
  const index_t at = (index_t(blockIdx.x) * THREADS + threadIdx.x) * V;
  index_t rest = at, channel = 0;
  if (CHANNELS_LAST) {
    channel = rest % channels;
    rest /= channels;
  }
  index_t first[RANK], count = 1, size = 1;
#pragma unroll
  for (int d = RANK - 1; d >= 0; --d) {
    first[d] = rest % output[d] * stride[d] - pad[d];
    rest /= output[d];
    size *= input[d];
    if (KIND == AVERAGE) {
      // With COUNT_PADS the first position that counts is the first of the padding, which no window starts before.
      count *= COUNT_PADS ? positions(0, window[d], step[d], input[d] + pad_end[d] - first[d])
                          : positions(first[d], window[d], step[d], input[d]);
    }
  }
  // `rest` is the image, or (channels first) the channel of an image.
  if (rest >= (CHANNELS_LAST ? index_t(N) : index_t(N) * channels)) return;
  const elem_t* in = x + rest * size * (CHANNELS_LAST ? channels : 1) + channel;
  acc_t s[V];
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = start();
  auto visit = [&](index_t p) {
    acc_t v[V];
    load_wide(v, in + (CHANNELS_LAST ? p * channels : p));
#pragma unroll
    for (int j = 0; j < V; ++j) see(s[j], v[j]);
  };
  walk<0>(first, window, step, input, 0, visit);
  launch_dependents();
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = finish(s[j], count);
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(s, at);
}
#endif
