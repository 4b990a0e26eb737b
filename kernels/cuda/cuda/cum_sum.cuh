// Running sums. The order of additions depends on sizes only, so results are the same bits from run to run.

#if STRIDED
// Along the middle of [OUTER, LEN, INNER]: one thread walks one column.
extern "C" __global__ void __launch_bounds__(THREADS)
  KERNEL_NAME(const elem_t* x, elem_t* out SYMBOL_PARAMS) {
  dependency_wait();
  const index_t len = LEN, inner = INNER;
  const index_t column = index_t(blockIdx.x) * THREADS + threadIdx.x;
  if (column >= index_t(OUTER) * inner) return;
  const index_t start = column / inner * len * inner + column % inner;
  acc_t sum = 0;
#pragma unroll 8
  for (index_t l = 0; l < len; ++l) {
    const index_t at = start + (REVERSE ? len - 1 - l : l) * inner;
    const acc_t v = load_as<acc_t>(x + at);
    store_as(out + at, EXCLUSIVE ? sum : sum + v);
    sum += v;
  }
  launch_dependents();
}
#else
// Rows of LEN contiguous elements: a block (or, up to 32 threads, a warp) scans THREADS * ITEMS elements at a time.
extern "C" __global__ void __launch_bounds__(THREADS)
  KERNEL_NAME(const elem_t* x, elem_t* out SYMBOL_PARAMS) {
  constexpr int WARPS = THREADS / 32;
  __shared__ acc_t totals[2][WARPS];
  dependency_wait();
  const index_t len = LEN;
  const index_t start = index_t(blockIdx.x) * len;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  acc_t carry = 0;
  int turn = 0;
  for (index_t base = 0; base < len; base += THREADS * ITEMS, turn ^= 1) {
    acc_t v[ITEMS];
    acc_t own = 0;
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
      const index_t i = base + threadIdx.x * ITEMS + j;
      v[j] = i < len ? load_as<acc_t>(x + start + (REVERSE ? len - 1 - i : i)) : acc_t(0);
      own += v[j];
    }
    acc_t sum = own;  // over the lanes up to this one
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const acc_t below = __shfl_up_sync(ALL_LANES, sum, d);
      if (lane >= d) sum += below;
    }
    if (lane == 31) totals[turn][warp] = sum;
    __syncthreads();  // two turns of totals: the next turn's writes cannot meet this turn's reads
    acc_t before = __shfl_up_sync(ALL_LANES, sum, 1);
    if (lane == 0) before = 0;
    acc_t all = carry;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      if (w == warp) before += all;
      all += totals[turn][w];
    }
    carry = all;
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
      const index_t i = base + threadIdx.x * ITEMS + j;
      const acc_t after = before + v[j];
      if (i < len) store_as(out + start + (REVERSE ? len - 1 - i : i), EXCLUSIVE ? before : after);
      before = after;
    }
  }
  launch_dependents();
}
#endif
