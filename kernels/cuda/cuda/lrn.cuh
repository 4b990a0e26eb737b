// Normalisation across a window of SIZE channels: a thread has V neighbouring positions of one channel.
extern "C" __global__ void __launch_bounds__(THREADS)
  KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t spatial = SPATIAL;
  const index_t at = (index_t(blockIdx.x) * THREADS + threadIdx.x) * V;
  if (at >= index_t(N) * CHANNELS * spatial) return;
  const int channel = at / spatial % CHANNELS;
  const int before = min((SIZE - 1) / 2, channel), after = min(SIZE / 2, CHANNELS - 1 - channel);
  acc_t sum[V] = {}, v[V];
  for (int d = -before; d <= after; ++d) {
    load_wide(v, x + at + d * spatial);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += v[j] * v[j];
  }
  launch_dependents();
  load_wide(v, x + at);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    v[j] /= pow(acc_t(LRN_BIAS) + acc_t(ALPHA) / acc_t(SIZE) * sum[j], acc_t(BETA));
  }
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(v, at);
}
