// Softmax along rows of LEN contiguous elements: GROUP threads for each row, ROWS rows in a block.
// RESIDENT: a row stays in registers, CHUNKS vectors of V per thread. Otherwise it is read twice, with a running maximum.

// The sum of exp(x - top) over what has been seen.
struct Running {
  acc_t top, sum;
};

DEVICE acc_t weight(acc_t x, acc_t top) { return x == top ? acc_t(1) : exp_for<elem_t>(x - top); }

DEVICE void see(Running& r, acc_t x) {
  const acc_t top = max(r.top, x);
  r.sum = r.sum * weight(r.top, top) + weight(x, top);
  r.top = top;
}

DEVICE Running merge(Running a, Running b) {
  const acc_t top = max(a.top, b.top);
  return Running{top, a.sum * weight(a.top, top) + b.sum * weight(b.top, top)};
}

DEVICE acc_t probability(acc_t x, acc_t top, acc_t scale) {
  // `scale` is 1 / sum, or the logarithm of the sum.
  return LOG ? (x - top) - scale : exp_for<elem_t>(x - top) * scale;
}

#if STRIDED
// Along the middle of [OUTER, LEN, INNER]: a thread has V neighbouring columns, DEPTH threads share a column.
extern "C" __global__ void __launch_bounds__(COLUMNS* DEPTH)
  KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ Running parts[DEPTH][COLUMNS * V];
  dependency_wait();
  const index_t len = LEN, inner = INNER;
  const index_t column = (index_t(blockIdx.x) * COLUMNS + threadIdx.x) * V;
  const bool live = column < index_t(OUTER) * inner;
  const index_t at = live ? column / inner * len * inner + column % inner : 0;
  Running r[V];
#pragma unroll
  for (int j = 0; j < V; ++j) r[j] = Running{-infinity<acc_t>(), acc_t(0)};
  if (live) {
#pragma unroll 4
    for (index_t l = threadIdx.y; l < len; l += DEPTH) {
      acc_t v[V];
      load_wide(v, x + at + l * inner);
#pragma unroll
      for (int j = 0; j < V; ++j) see(r[j], v[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) parts[threadIdx.y][threadIdx.x * V + j] = r[j];
  __syncthreads();
  if (!live) return;
  acc_t scale[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    r[j] = parts[0][threadIdx.x * V + j];
#pragma unroll
    for (int d = 1; d < DEPTH; ++d) r[j] = merge(r[j], parts[d][threadIdx.x * V + j]);
    scale[j] = LOG ? log(r[j].sum) : acc_t(1) / r[j].sum;
  }
  launch_dependents();
  const Epilogue epilogue = EPILOGUE;
  for (index_t l = threadIdx.y; l < len; l += DEPTH) {
    acc_t v[V];
    load_wide(v, x + at + l * inner);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = probability(v[j], r[j].top, scale[j]);
    epilogue.store(v, at + l * inner);
  }
}
#else
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
  KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN;
  const index_t row = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool live = row < index_t(OUTER);
  const index_t at = live ? row * len : 0;
  const Epilogue epilogue = EPILOGUE;
#if RESIDENT
  acc_t v[CHUNKS][V];
  acc_t top = -infinity<acc_t>();
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const index_t i = (c * GROUP + lane) * V;
#pragma unroll
    for (int j = 0; j < V; ++j) v[c][j] = -infinity<acc_t>();
    if (live && i < len) load_wide(v[c], x + at + i);
#pragma unroll
    for (int j = 0; j < V; ++j) top = max(top, v[c][j]);
  }
  launch_dependents();
  top = group_max<GROUP>(top);
  acc_t sum = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      v[c][j] -= top;
      const acc_t e = exp_for<elem_t>(v[c][j]);
      if (!LOG) v[c][j] = e;
      // What lies past the row's end is -inf, which adds nothing unless the whole row is.
      if ((c * GROUP + lane) * V < len) sum += e;
    }
  }
  sum = group_sum<GROUP>(sum);
  const acc_t scale = LOG ? log(sum) : acc_t(1) / sum;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const index_t i = (c * GROUP + lane) * V;
#pragma unroll
    for (int j = 0; j < V; ++j) v[c][j] = LOG ? v[c][j] - scale : v[c][j] * scale;
    if (live && i < len) epilogue.store(v[c], at + i);
  }
#else
  Running r = {-infinity<acc_t>(), acc_t(0)};
  if (live) {
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      acc_t v[V];
      load_wide(v, x + at + i);
#pragma unroll
      for (int j = 0; j < V; ++j) see(r, v[j]);
    }
  }
  launch_dependents();
  r = group_combine<GROUP>(r, [](Running a, Running b) { return merge(a, b); });
  const acc_t scale = LOG ? log(r.sum) : acc_t(1) / r.sum;
  if (!live) return;
#pragma unroll 2
  for (index_t i = lane * V; i < len; i += GROUP * V) {
    acc_t v[V];
    load_wide(v, x + at + i);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = probability(v[j], r.top, scale);
    epilogue.store(v, at + i);
  }
#endif
}
#endif
