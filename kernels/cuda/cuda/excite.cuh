// excite: of each image the mean over pixels, and two matrix products of it, in one cluster of SLICES x PARTS blocks.
// A block sums its slice of channels over its part of the pixels. As the first product is linear, it can multiply what it has
// by its columns of w1; those parts of all hidden sums go to every block of the cluster, which adds them up in one order, applies
// what is between the products, and computes its own filters. Weights are asked for before the kernel in front has ended.
// Packed: w1 as [slice][hidden][PITCH], w2 as [block][hidden][OWN_PITCH].

constexpr int BLOCKS = SLICES * PARTS;
constexpr int WARPS = THREADS / 32;
constexpr int SLICE = CHANNELS / SLICES;
constexpr int PITCH = (SLICE + 7) / 8 * 8;
constexpr int OWN = (FILTERS + BLOCKS - 1) / BLOCKS;    // filters of a block
constexpr int OWN_PITCH = (OWN + 7) / 8 * 8;
constexpr int COLUMNS = SLICE / V;
constexpr int LANES = COLUMNS < THREADS ? COLUMNS : THREADS;
constexpr int ROWS = THREADS / LANES;
constexpr int WIDTH = LANES * V;                        // channels that a block sums at a time
constexpr int SHARERS = WIDTH < THREADS ? THREADS / WIDTH : 1;
constexpr int AHEAD = V * sizeof(element_t) > 8 ? 12 : 16;   // loads in flight
constexpr int AT_A_TIME = (HIDDEN + WARPS - 1) / WARPS < 4 ? (HIDDEN + WARPS - 1) / WARPS : 4;   // hidden elements of a warp
constexpr int TOGETHER = OWN_PITCH < THREADS ? OWN_PITCH : THREADS;
constexpr int DEPTH = THREADS / TOGETHER;               // threads that share a filter
constexpr int W1_BYTES = HIDDEN * PITCH * sizeof(element_t), W2_BYTES = HIDDEN * OWN_PITCH * sizeof(element_t);

template <int BYTES> DEVICE void stage(unsigned char* to, const void* from) {
  for (int at = threadIdx.x * 16; at < BYTES; at += THREADS * 16)
    cp_async16(to + at, static_cast<const unsigned char*>(from) + at, true);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_NAME(const element_t* x, const element_t* w1, const element_t* w2 BETWEEN_PARAMS EPILOGUE_PARAMS SYMBOL_PARAMS
                    PREFETCH_PARAMS) {
  PREFETCH;
  extern __shared__ __align__(128) unsigned char shared[];
  // Behind the weights: sums of rows, sums of those or of parts of a filter, means, hidden sums of every block, what becomes of them.
  acc_t* const sums = reinterpret_cast<acc_t*>(shared + (STAGED ? W1_BYTES + W2_BYTES : 0));
  acc_t* const some = sums + THREADS * V;
  acc_t* const means = some + THREADS;
  acc_t* const parts = means + PITCH;
  element_t* const hidden = reinterpret_cast<element_t*>(parts + BLOCKS * HIDDEN);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int rank = blockIdx.x % BLOCKS, slice = rank % SLICES, part = rank / SLICES;
  const index_t image = blockIdx.x / BLOCKS;

  if (BLOCKS > 1) cluster_arrive();
  w1 += slice * (HIDDEN * PITCH);
  w2 += rank * (HIDDEN * OWN_PITCH);
  if (STAGED) {
    stage<W1_BYTES>(shared, w1);
    stage<W2_BYTES>(shared + W1_BYTES, w2);
    cp_async_commit();
    w1 = reinterpret_cast<const element_t*>(shared);
    w2 = reinterpret_cast<const element_t*>(shared + W1_BYTES);
  }
  for (int c = SLICE + thread; c < PITCH; c += THREADS) means[c] = 0;
  const index_t first = part * PIXELS / PARTS, end = (part + 1) * PIXELS / PARTS;
  const int row = thread / LANES;
  const acc_t share = acc_t(1) / (acc_t)PIXELS;
  dependency_wait();
  launch_dependents();

  // What the ends of the products read, as far as every thread has one element at most.
  const Between between = BETWEEN(hidden - image * HIDDEN);
  const Epilogue epilogue = EPILOGUE;
  const int own = thread % TOGETHER;
  const index_t hidden_at = image * HIDDEN, own_at = image * FILTERS + rank * OWN;
  const auto between_reads = between.read<1>(hidden_at + (thread < HIDDEN ? thread : 0));
  const auto own_reads = epilogue.read<1>(own < OWN && rank * OWN + own < FILTERS ? own_at + own : image * FILTERS);

#pragma unroll 1
  for (int lane0 = 0; lane0 < COLUMNS; lane0 += LANES) {
    const int column = lane0 + thread % LANES;
    if (row < ROWS) {
      acc_t sum[V] = {};
      if (column < COLUMNS) {
        const element_t* from = x + image * PIXELS * CHANNELS + slice * SLICE + column * V;
#pragma unroll 1
        for (index_t p = first + row; p < end; p += AHEAD * ROWS) {
          Vec<element_t, V> v[AHEAD];
#pragma unroll
          for (int a = 0; a < AHEAD; ++a) v[a] = load_vec_if<V>(from + (p + a * ROWS) * CHANNELS, p + a * ROWS < end);
#pragma unroll
          for (int a = 0; a < AHEAD; ++a)
#pragma unroll
            for (int e = 0; e < V; ++e) sum[e] += widen(v[a].v[e]);
        }
      }
#pragma unroll
      for (int e = 0; e < V; ++e) sums[row * WIDTH + thread % LANES * V + e] = sum[e];
    }
    __syncthreads();
    // The rows' sums, where there are many by several threads.
    for (int i = thread; i < SHARERS * WIDTH; i += THREADS) {
      acc_t sum = 0;
#pragma unroll 4
      for (int r = i / WIDTH; r < ROWS; r += SHARERS) sum += sums[r * WIDTH + i % WIDTH];
      if (SHARERS > 1)
        some[i] = sum;
      else if (lane0 * V + i < SLICE)
        means[lane0 * V + i] = sum * share;
    }
    if constexpr (SHARERS > 1) {
      __syncthreads();
      if (thread < WIDTH && lane0 * V + thread < SLICE) {
        acc_t sum = some[thread];
#pragma unroll
        for (int s = 1; s < SHARERS; ++s) sum += some[s * WIDTH + thread];
        means[lane0 * V + thread] = sum * share;
      }
    }
    if (COLUMNS > LANES) __syncthreads();
  }
  cp_async_wait<0>();
  __syncthreads();
  if (BLOCKS > 1) cluster_wait();

  // A warp for each hidden element; of several at a time, so that their shuffles overlap.
#pragma unroll 1
  for (int j0 = warp; j0 < HIDDEN; j0 += WARPS * AT_A_TIME) {
    acc_t sum[AT_A_TIME] = {};
#pragma unroll 1
    for (int c = lane * 8; c < PITCH; c += 256) {
      const auto m = load_vec<8>(means + c);
#pragma unroll
      for (int q = 0; q < AT_A_TIME; ++q) {
        const auto w = load_vec<8>(w1 + min(j0 + q * WARPS, HIDDEN - 1) * PITCH + c);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[q] += widen(w.v[e]) * m.v[e];
      }
    }
#pragma unroll
    for (int d = 16; d; d >>= 1)
#pragma unroll
      for (int q = 0; q < AT_A_TIME; ++q) sum[q] += __shfl_xor_sync(0xffffffffu, sum[q], d);
#pragma unroll
    for (int q = 0; q < AT_A_TIME; ++q) {
      const int j = j0 + q * WARPS;
      if (j >= HIDDEN) break;
      if (BLOCKS == 1) {
        if (lane == 0) parts[j] = sum[q];
      } else if (lane < BLOCKS) {
        store_cluster(parts + rank * HIDDEN + j, lane, sum[q]);
      }
    }
  }
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

#pragma unroll 1
  for (int o0 = 0; o0 < OWN; o0 += TOGETHER) {
    const int o = o0 + own;
    acc_t sum[1] = {0};
    if (thread < DEPTH * TOGETHER && o < OWN_PITCH) {
#pragma unroll 4
      for (int j = thread / TOGETHER; j < HIDDEN; j += DEPTH) sum[0] += widen(hidden[j]) * widen(w2[j * OWN_PITCH + o]);
    }
    if constexpr (DEPTH > 1) {
      some[thread] = sum[0];
      __syncthreads();
#pragma unroll
      for (int d = 1; d < DEPTH; ++d)
        if (thread < TOGETHER) sum[0] += some[d * TOGETHER + thread];
    }
    if (thread < TOGETHER && o < OWN && rank * OWN + o < FILTERS) {
      if (OWN <= TOGETHER)
        epilogue.store<1>(sum, own_at + o, own_reads);
      else
        epilogue.store<1>(sum, own_at + o, epilogue.read<1>(own_at + o));
    }
    if (OWN > TOGETHER) __syncthreads();
  }
}
