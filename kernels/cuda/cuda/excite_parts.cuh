// The end of squeeze and excitation: SLICES blocks for each image add up the PARTS parts of its hidden sums, apply what is between
// the products, and compute their own filters. Packed: w2 as [block][hidden][PITCH].

constexpr int OWN = (FILTERS + SLICES - 1) / SLICES;    // filters of a block
constexpr int PITCH = (OWN + 7) / 8 * 8;
constexpr int W2_BYTES = HIDDEN * PITCH * sizeof(element_t);
constexpr int V = HIDDEN % 4 == 0 ? 4 : HIDDEN % 2 == 0 ? 2 : 1;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_NAME(const acc_t* parts, const element_t* w2 BETWEEN_PARAMS EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ uint4 shared[];
  // Behind the weights: sums of rows, sums of those or of parts of a filter, hidden sums, what becomes of them.
  acc_t* const rows = reinterpret_cast<acc_t*>(reinterpret_cast<unsigned char*>(shared) + (STAGED ? W2_BYTES : 0));
  acc_t* const some = rows + THREADS * V;
  acc_t* const sums = some + THREADS;
  element_t* const hidden = reinterpret_cast<element_t*>(sums + HIDDEN);
  const int thread = threadIdx.x, slice = blockIdx.x % SLICES;
  const index_t image = blockIdx.x / SLICES;

  w2 += slice * (HIDDEN * PITCH);
  if (STAGED) {
    stage<THREADS, W2_BYTES>(reinterpret_cast<unsigned char*>(shared), w2);
    cp_async_commit();
    w2 = reinterpret_cast<const element_t*>(shared);
  }
  dependency_wait();
  launch_dependents();

  // What the ends of the products read, as far as every thread has one element at most.
  const Between between = BETWEEN(hidden - image * HIDDEN);
  const Epilogue epilogue = EPILOGUE;
  const int own = thread % together<THREADS, PITCH>(), count = min(OWN, FILTERS - slice * OWN);
  const index_t hidden_at = image * HIDDEN, own_at = image * FILTERS + slice * OWN;
  const auto between_reads = between.read<1>(hidden_at + (thread < HIDDEN ? thread : 0));
  const auto own_reads = epilogue.read<1>(own < count ? own_at + own : image * FILTERS);

  sum_rows<THREADS, V, HIDDEN / V>(parts + image * PARTS * HIDDEN, HIDDEN, 0, PARTS, rows, some, acc_t(1), sums);
  cp_async_wait<0>();
  __syncthreads();
#pragma unroll 1
  for (int j = thread; j < HIDDEN; j += THREADS) {
    const acc_t sum[1] = {sums[j]};
    if (HIDDEN <= THREADS)
      between.store<1>(sum, hidden_at + j, between_reads);
    else
      between.store<1>(sum, hidden_at + j, between.read<1>(hidden_at + j));
  }
  __syncthreads();
  excite<THREADS, HIDDEN, PITCH>(hidden, w2, some, epilogue, own_reads, own_at, count);
}
