// What becomes of a depthwise convolution's results where an excitation follows: they are stored, and a thread keeps the sum of
// what it has stored of its V channels. TEAMS threads of a block have the same ones, WIDTH = LANES * V channels are the block's. At its end
// the block multiplies its part of their means by their columns of w1: so much it adds to all hidden sums of its image, which
// the next kernel reads. Packed: w1 as [set of channels][hidden][PITCH].

constexpr int WIDTH = LANES * V;
constexpr int PITCH = (WIDTH + 7) / 8 * 8;
constexpr int W1_BYTES = HIDDEN * PITCH * sizeof(element_t);

#define RESULTS_PARAMS , const element_t* w1, acc_t* parts
#define RESULTS w1, parts
struct Results {
  const element_t* w1;
  acc_t* parts;
  acc_t sum[V];

  // Behind what else the block has there.
  DEVICE static unsigned char* shared() {
    extern __shared__ uint4 shared[];
    return reinterpret_cast<unsigned char*>(shared) + SQUEEZE_AT;
  }
  // Before the kernel in front has ended.
  DEVICE void begin(int set) {
    stage<THREADS, W1_BYTES>(shared(), w1 + set * (HIDDEN * PITCH));
    cp_async_commit();
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] = 0;
  }
  template <int W, class Reads>
  DEVICE void store(const Epilogue& epilogue, const acc_t (&acc)[W], index_t i, const Reads& reads) {
    const auto stored = epilogue.result<W>(acc, i, reads);
    store_vec<W>(epilogue.out + i, stored);
#pragma unroll
    for (int e = 0; e < W; ++e) sum[e] += widen(stored.v[e]);
  }
  // Threads of no team stored nothing.
  DEVICE void end(int team, int lane, index_t pixels) {
    const element_t* const columns = reinterpret_cast<const element_t*>(shared());
    // First what is read 16 bytes at a time.
    acc_t* const means = reinterpret_cast<acc_t*>(shared() + W1_BYTES);
    acc_t* const rows = means + PITCH;
    acc_t* const some = rows + TEAMS * WIDTH;
    if (team < TEAMS) {
#pragma unroll
      for (int e = 0; e < V; ++e) rows[team * WIDTH + lane * V + e] = sum[e];
    }
    for (int c = WIDTH + threadIdx.x; c < PITCH; c += THREADS) means[c] = 0;
    cp_async_wait<0>();
    __syncthreads();
    add_rows<THREADS, TEAMS, WIDTH>(rows, some, WIDTH, acc_t(1) / (acc_t)pixels, means);
    __syncthreads();
    acc_t* const own = parts + (index_t)blockIdx.x * HIDDEN;
    squeeze<THREADS / 32 * 32, TEAM, HIDDEN, PITCH>(means, columns, [&](int j, acc_t product, int member) {
      if (member == 0) own[j] = product;
    });
  }
};
