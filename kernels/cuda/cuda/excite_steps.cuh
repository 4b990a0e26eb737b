// Steps of squeeze and excitation, each by all threads of a block: sums of rows, the product that squeezes them, the product that
// excites. The order of every sum is fixed by sizes alone.

template <int THREADS, int BYTES> DEVICE void stage(unsigned char* to, const void* from) {
  for (int at = threadIdx.x * 16; at < BYTES; at += THREADS * 16)
    cp_async16(to + at, static_cast<const unsigned char*>(from) + at, true);
}

// The sum of `rows`, [ROWS][WIDTH], times `share`: its first `count` columns to `to`. Where there are many rows, several threads
// share a column by way of `some`, [THREADS].
template <int THREADS, int ROWS, int WIDTH>
DEVICE void add_rows(const acc_t* rows, acc_t* some, int count, acc_t share, acc_t* to) {
  constexpr int SHARERS = WIDTH < THREADS ? THREADS / WIDTH : 1;
  const int thread = threadIdx.x;
  for (int i = thread; i < SHARERS * WIDTH; i += THREADS) {
    acc_t sum = 0;
#pragma unroll 4
    for (int r = i / WIDTH; r < ROWS; r += SHARERS) sum += rows[r * WIDTH + i % WIDTH];
    if (SHARERS > 1)
      some[i] = sum;
    else if (i < count)
      to[i] = sum * share;
  }
  if constexpr (SHARERS > 1) {
    __syncthreads();
    if (thread < WIDTH && thread < count) {
      acc_t sum = some[thread];
#pragma unroll
      for (int s = 1; s < SHARERS; ++s) sum += some[s * WIDTH + thread];
      to[thread] = sum * share;
    }
  }
}

// The sum of rows `first` to `end` - 1 of `from`, `pitch` apart, each of COLUMNS times V elements, times `share`: to `to`.
// `rows` is [THREADS][V], `some` [THREADS].
template <int THREADS, int V, int COLUMNS, class X>
DEVICE void sum_rows(const X* from, index_t pitch, index_t first, index_t end, acc_t* rows, acc_t* some, acc_t share, acc_t* to) {
  constexpr int LANES = COLUMNS < THREADS ? COLUMNS : THREADS;
  constexpr int ROWS = THREADS / LANES;
  constexpr int WIDTH = LANES * V;                           // columns that are summed at a time
  constexpr int AHEAD = V * sizeof(X) > 8 ? 12 : 16;         // loads in flight
  const int thread = threadIdx.x, row = thread / LANES;
#pragma unroll 1
  for (int lane0 = 0; lane0 < COLUMNS; lane0 += LANES) {
    const int column = lane0 + thread % LANES;
    if (row < ROWS) {
      acc_t sum[V] = {};
      if (column < COLUMNS) {
#pragma unroll 1
        for (index_t p = first + row; p < end; p += AHEAD * ROWS) {
          Vec<X, V> v[AHEAD];
#pragma unroll
          for (int a = 0; a < AHEAD; ++a)
            v[a] = load_vec_if<V>(from + (p + a * ROWS) * pitch + column * V, p + a * ROWS < end);
#pragma unroll
          for (int a = 0; a < AHEAD; ++a)
#pragma unroll
            for (int e = 0; e < V; ++e) sum[e] += widen(v[a].v[e]);
        }
      }
#pragma unroll
      for (int e = 0; e < V; ++e) rows[row * WIDTH + thread % LANES * V + e] = sum[e];
    }
    __syncthreads();
    add_rows<THREADS, ROWS, WIDTH>(rows, some, COLUMNS * V - lane0 * V, share, to + lane0 * V);
    if (COLUMNS > LANES) __syncthreads();
  }
}

// The products of `means`, [PITCH], by the rows of `w`, [HIDDEN][PITCH], PITCH a multiple of 8: TEAM threads for each of them, and
// `give(j, sum, member)` for each member of the team. Several at a time, so that their shuffles overlap. The first THREADS
// threads take part, whole warps.
template <int THREADS, int TEAM, int HIDDEN, int PITCH, class W, class Give>
DEVICE void squeeze(const acc_t* means, const W* w, const Give& give) {
  constexpr int TEAMS = THREADS / TEAM;
  constexpr int EACH = (HIDDEN + TEAMS - 1) / TEAMS, AT_A_TIME = EACH < 4 ? EACH : 4;
  static_assert(THREADS % 32 == 0 && 32 % TEAM == 0, "teams of whole warps");
  const int member = threadIdx.x % TEAM, team = threadIdx.x / TEAM;
  if (team >= TEAMS) return;
#pragma unroll 1
  for (int j0 = team; j0 - team < HIDDEN; j0 += TEAMS * AT_A_TIME) {
    acc_t sum[AT_A_TIME] = {};
#pragma unroll 1
    for (int c = member * 8; c < PITCH; c += TEAM * 8) {
      const auto m = load_vec<8>(means + c);
#pragma unroll
      for (int q = 0; q < AT_A_TIME; ++q) {
        const auto v = load_vec<8>(w + min(j0 + q * TEAMS, HIDDEN - 1) * PITCH + c);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[q] += widen(v.v[e]) * m.v[e];
      }
    }
#pragma unroll
    for (int d = TEAM / 2; d; d >>= 1)
#pragma unroll
      for (int q = 0; q < AT_A_TIME; ++q) sum[q] += __shfl_xor_sync(0xffffffffu, sum[q], d);
#pragma unroll
    for (int q = 0; q < AT_A_TIME; ++q)
      if (j0 + q * TEAMS < HIDDEN) give(j0 + q * TEAMS, sum[q], member);
  }
}

// Filters of a block that are computed at a time.
template <int THREADS, int PITCH> DEVICE constexpr int together() { return PITCH < THREADS ? PITCH : THREADS; }

// The products of `hidden` by the columns of `w`, [HIDDEN][PITCH]: the first `count` of them are stored from element `at` on,
// with what `reads` has for this thread's if there are no more than a thread each. `some` is [THREADS].
template <int THREADS, int HIDDEN, int PITCH, class H, class W, class End, class Reads>
DEVICE void excite(const H* hidden, const W* w, acc_t* some, const End& epilogue, const Reads& reads, index_t at, int count) {
  constexpr int TOGETHER = together<THREADS, PITCH>();
  constexpr int DEPTH = THREADS / TOGETHER;                  // threads that share a filter
  const int thread = threadIdx.x;
#pragma unroll 1
  for (int o0 = 0; o0 < PITCH; o0 += TOGETHER) {
    const int o = o0 + thread % TOGETHER;
    acc_t sum[1] = {0};
    if (thread < DEPTH * TOGETHER && o < PITCH) {
#pragma unroll 4
      for (int j = thread / TOGETHER; j < HIDDEN; j += DEPTH) sum[0] += widen(hidden[j]) * widen(w[j * PITCH + o]);
    }
    if constexpr (DEPTH > 1) {
      some[thread] = sum[0];
      __syncthreads();
#pragma unroll
      for (int d = 1; d < DEPTH; ++d)
        if (thread < TOGETHER) sum[0] += some[d * TOGETHER + thread];
    }
    if (thread < TOGETHER && o < count) {
      if (PITCH <= TOGETHER)
        epilogue.template store<1>(sum, at + o, reads);
      else
        epilogue.template store<1>(sum, at + o, epilogue.template read<1>(at + o));
    }
    if (PITCH > TOGETHER) __syncthreads();
  }
}
