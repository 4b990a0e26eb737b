// excite: of each image the mean over pixels, and two matrix products of it, in one cluster of SLICES x PARTS blocks.
// A block sums its slice of channels over its part of the pixels. As the first product is linear, it can multiply what it has
// by its columns of w1; those parts of all hidden sums go to every block of the cluster, which adds them up in one order, applies
// what is between the products, and computes its own filters. Weights are asked for before the kernel in front has ended.
// Packed: w1 as [slice][hidden][PITCH], w2 as [block][hidden][OWN_PITCH].

constexpr int BLOCKS = SLICES * PARTS;
constexpr int SLICE = CHANNELS / SLICES;
constexpr int PITCH = (SLICE + 7) / 8 * 8;
constexpr int OWN = (FILTERS + BLOCKS - 1) / BLOCKS;    // filters of a block
constexpr int OWN_PITCH = (OWN + 7) / 8 * 8;
constexpr int W1_BYTES = HIDDEN * PITCH * sizeof(element_t), W2_BYTES = HIDDEN * OWN_PITCH * sizeof(element_t);

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_NAME(const element_t* x, const element_t* w1, const element_t* w2 BETWEEN_PARAMS EPILOGUE_PARAMS SYMBOL_PARAMS
                    PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(128) unsigned char shared[];
  // Behind the weights: sums of rows, sums of those or of parts of a filter, means, hidden sums of every block, what becomes of them.
  acc_t* const sums = reinterpret_cast<acc_t*>(shared + (STAGED ? W1_BYTES + W2_BYTES : 0));
  acc_t* const some = sums + THREADS * V;
  acc_t* const means = some + THREADS;
  acc_t* const parts = means + PITCH;
  element_t* const hidden = reinterpret_cast<element_t*>(parts + BLOCKS * HIDDEN);
  const int thread = threadIdx.x;
  const int rank = blockIdx.x % BLOCKS, slice = rank % SLICES, part = rank / SLICES;
  const index_t image = blockIdx.x / BLOCKS;

  if (BLOCKS > 1) cluster_arrive();
  w1 += slice * (HIDDEN * PITCH);
  w2 += rank * (HIDDEN * OWN_PITCH);
  if (STAGED) {
    stage<THREADS, W1_BYTES>(shared, w1);
    stage<THREADS, W2_BYTES>(shared + W1_BYTES, w2);
    cp_async_commit();
    w1 = reinterpret_cast<const element_t*>(shared);
    w2 = reinterpret_cast<const element_t*>(shared + W1_BYTES);
  }
  for (int c = SLICE + thread; c < PITCH; c += THREADS) means[c] = 0;
  const index_t first = part * PIXELS / PARTS, end = (part + 1) * PIXELS / PARTS;
  dependency_wait();
  launch_dependents();

  // What the ends of the products read, as far as every thread has one element at most.
  const Between between = BETWEEN(hidden - image * HIDDEN);
  const Epilogue epilogue = EPILOGUE;
  const int own = thread % together<THREADS, OWN_PITCH>(), count = min(OWN, FILTERS - rank * OWN);
  const index_t hidden_at = image * HIDDEN, own_at = image * FILTERS + rank * OWN;
  const auto between_reads = between.read<1>(hidden_at + (thread < HIDDEN ? thread : 0));
  const auto own_reads = epilogue.read<1>(own < count ? own_at + own : image * FILTERS);

  sum_rows<THREADS, V, SLICE / V>(x + image * PIXELS * CHANNELS + slice * SLICE, CHANNELS, first, end, sums, some,
                                  acc_t(1) / (acc_t)PIXELS, means);
  cp_async_wait<0>();
  __syncthreads();
  if (BLOCKS > 1) cluster_wait();

  squeeze<THREADS, 32, HIDDEN, PITCH>(means, w1, [&](int j, acc_t sum, int member) {
    if (BLOCKS == 1) {
      if (member == 0) parts[j] = sum;
    } else if (member < BLOCKS) {
      store_cluster(parts + rank * HIDDEN + j, member, sum);
    }
  });
  if (BLOCKS > 1)
    cluster_barrier();
  else
    __syncthreads();
#pragma unroll 1
  for (int j = thread; j < HIDDEN; j += THREADS) {
    acc_t sum[1] = {parts[j]};
#pragma unroll
    for (int b = 1; b < BLOCKS; ++b) sum[0] += parts[b * HIDDEN + j];
    if (HIDDEN <= THREADS)
      between.store<1>(sum, hidden_at + j, between_reads);
    else
      between.store<1>(sum, hidden_at + j, between.read<1>(hidden_at + j));
  }
  __syncthreads();
  excite<THREADS, HIDDEN, OWN_PITCH>(hidden, w2, some, epilogue, own_reads, own_at, count);
}
// No pointer to activations is restrict-qualified: such loads count as invariant, and could move above the dependency wait.
