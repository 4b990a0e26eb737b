// Index of the largest or smallest element. NaN beats every number, as in numpy; ties go to the first or the LAST.

struct Best {
  acc_t value;
  index_t index;  // -1: none yet
};

DEVICE Best better(Best a, Best b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan ? a : b;
  if (!a_nan && a.value != b.value) return (MAXIMUM ? a.value > b.value : a.value < b.value) ? a : b;
  return (LAST ? a.index > b.index : a.index < b.index) ? a : b;
}

#if STRIDED
// Along the middle of [OUTER, LEN, INNER]: one thread for each column, DEPTH threads share a column.
extern "C" __global__ void __launch_bounds__(COLUMNS* DEPTH)
  KERNEL_NAME(const elem_t* x, long long* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ Best parts[DEPTH][COLUMNS];
  dependency_wait();
  const index_t len = LEN, inner = INNER;
  const index_t column = index_t(blockIdx.x) * COLUMNS + threadIdx.x;
  const bool live = column < index_t(OUTER) * inner;
  Best best = {acc_t(0), -1};
  if (live) {
    const elem_t* in = x + (column / inner * len * inner + column % inner);
#pragma unroll 4
    for (index_t l = threadIdx.y; l < len; l += DEPTH) best = better(best, Best{load_as<acc_t>(in + l * inner), l});
  }
  parts[threadIdx.y][threadIdx.x] = best;
  __syncthreads();
  launch_dependents();
  if (!live || threadIdx.y != 0) return;
#pragma unroll
  for (int d = 1; d < DEPTH; ++d) best = better(best, parts[d][threadIdx.x]);
  out[column] = max(best.index, index_t(0));
}
#else
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
  KERNEL_NAME(const elem_t* x, long long* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN;
  const index_t row = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool live = row < index_t(OUTER);
  Best best = {acc_t(0), -1};
  if (live) {
    const elem_t* in = x + row * len;
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      acc_t v[V];
      load_wide(v, in + i);
#pragma unroll
      for (int j = 0; j < V; ++j) best = better(best, Best{v[j], i + j});
    }
  }
  launch_dependents();
  best = group_combine<GROUP>(best, [](Best a, Best b) { return better(a, b); });
  if (live && lane == 0) out[row] = max(best.index, index_t(0));
}
#endif
