// The second kernel of a convolution whose k was split: adds the SPLIT planes of partial sums in a fixed order and
// finishes them, WIDTH elements a thread.

extern "C" __global__ void __launch_bounds__(128)
    KERNEL_NAME(const acc_t* partial EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  launch_dependents();
  dependency_wait();
  const index_t i = ((index_t)blockIdx.x * 128 + threadIdx.x) * WIDTH;
  if (i >= M * FILTERS) return;
  acc_t sum[WIDTH];
#pragma unroll
  for (int e = 0; e < WIDTH; ++e) sum[e] = 0;
#pragma unroll
  for (int p = 0; p < SPLIT; ++p) {
    const Vec<acc_t, WIDTH> v = load_vec<WIDTH>(partial + (long long)p * M * FILTERS + i);
#pragma unroll
    for (int e = 0; e < WIDTH; ++e) sum[e] += v.v[e];
  }
  EPILOGUE.store<WIDTH>(sum, i);
}
