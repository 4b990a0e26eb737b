// The sum of SPLITS partial products, in order, and the epilogue.
extern "C" __global__ void __launch_bounds__(256) KERNEL_NAME(const acc_t* partial EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  launch_dependents();
  const index_t count = SIZE_BATCH * SIZE_M * SIZE_N, i = (blockIdx.x * 256 + threadIdx.x) * VECTOR;
  if (i >= count) return;
  Vec<acc_t, VECTOR> sum = load_vec<VECTOR>(partial + i);
#pragma unroll
  for (int s = 1; s < SPLITS; ++s) {
    const Vec<acc_t, VECTOR> more = load_vec<VECTOR>(partial + s * count + i);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) sum.v[j] += more.v[j];
  }
  EPILOGUE.template store<VECTOR>(sum.v, i);
}
