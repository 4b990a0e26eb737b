// Reductions. Each thread folds elements into a State; states merge in an order that depends on sizes only.

enum Kind { SUM, MEAN, MAX, MIN, PROD, SUM_SQUARE, L1, L2, LOG_SUM, LOG_SUM_EXP, ANY, ALL };

// Roots and logarithms of integers go through double.
template <class C> struct Real { typedef double type; };
template <> struct Real<float> { typedef float type; };
typedef Real<acc_t>::type real_t;
// What a mean divides.
template <class C> struct Number { typedef C type; };
template <> struct Number<bool> { typedef long long type; };
typedef Number<acc_t>::type number_t;

#if RUNNING_MAXIMUM
// LogSumExp: sum of exp(x - top).
struct State {
  real_t top, sum;
};
DEVICE real_t weight(real_t x, real_t top) { return x == top ? real_t(1) : exp(x - top); }
DEVICE State start() { return State{-infinity<real_t>(), real_t(0)}; }
DEVICE State merge(State a, State b) {
  const real_t top = max(a.top, b.top);
  return State{top, a.sum * weight(a.top, top) + b.sum * weight(b.top, top)};
}
DEVICE void see(State& s, acc_t x) { s = merge(s, State{real_t(x), real_t(1)}); }
DEVICE acc_t finish(State s, long long) { return acc_t(s.top + log(s.sum)); }
#else
struct State {
  acc_t value;
};

template <class C> DEVICE C lowest() { return C(-infinity<C>()); }
template <> DEVICE long long lowest<long long>() { return (long long)0x8000000000000000ull; }
template <> DEVICE bool lowest<bool>() { return false; }
template <class C> DEVICE C highest() { return infinity<C>(); }
template <> DEVICE long long highest<long long>() { return 0x7fffffffffffffffll; }
template <> DEVICE bool highest<bool>() { return true; }

DEVICE State start() {
  switch (KIND) {
    case MAX: return State{lowest<acc_t>()};
    case MIN: return State{highest<acc_t>()};
    case PROD:
    case ALL: return State{acc_t(1)};
    default: return State{acc_t(0)};
  }
}
DEVICE State merge(State a, State b) {
  switch (KIND) {
    case MAX: return State{pw_max(a.value, b.value)};
    case MIN: return State{pw_min(a.value, b.value)};
    case PROD: return State{acc_t(a.value * b.value)};
    case ANY: return State{acc_t(a.value || b.value)};
    case ALL: return State{acc_t(a.value && b.value)};
    default: return State{acc_t(a.value + b.value)};
  }
}
DEVICE void see(State& s, acc_t x) {
  switch (KIND) {
    case SUM_SQUARE:
    case L2: s.value += x * x; break;
    case L1: s.value += x < acc_t(0) ? acc_t(-x) : x; break;
    default: s = merge(s, State{x});
  }
}
DEVICE acc_t finish(State s, long long count) {
  switch (KIND) {
    case MEAN: return acc_t(pw_div(number_t(s.value), number_t(count)));
    case L2: return acc_t(sqrt(real_t(s.value)));
    case LOG_SUM: return acc_t(log(real_t(s.value)));
    default: return s.value;
  }
}
#endif

#if SPLITS > 1 && !FINISH
// One of SPLITS parts of each result, for the kernel that finishes: [SPLITS, results].
#define RESULT_PARAMS , State* parts
#else
#define RESULT_PARAMS EPILOGUE_PARAMS
#endif

#if FINISH
// Merges the parts, one thread for each result.
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const State* parts EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t results = RESULTS;
  const index_t at = index_t(blockIdx.x) * THREADS + threadIdx.x;
  if (at >= results) return;
  State s = parts[at];
#pragma unroll 8
  for (int p = 1; p < SPLITS; ++p) s = merge(s, parts[p * results + at]);
  launch_dependents();
  acc_t result[1] = {finish(s, COUNT)};
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, at);
}

#elif ROWWISE
// Rows of LEN contiguous elements: GROUP threads for each (part of a) row, ROWS of them in a block.
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
    KERNEL_NAME(const elem_t* x RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN, rows = OUTER;
  const index_t row = index_t(blockIdx.x / SPLITS) * ROWS + threadIdx.x / GROUP;
  const int split = blockIdx.x % SPLITS, lane = threadIdx.x % GROUP;
  const bool live = row < rows;
  const index_t chunk = (len / V + SPLITS - 1) / SPLITS * V;
  const index_t end = SPLITS > 1 ? min(len, (split + 1) * chunk) : len;
  State s = start();
  if (live) {
    const elem_t* in = x + row * len;
#pragma unroll 4
    for (index_t i = (SPLITS > 1 ? split * chunk : 0) + lane * V; i < end; i += GROUP * V) {
      acc_t v[V];
      load_wide(v, in + i);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s, v[j]);
    }
  }
  launch_dependents();
  s = group_combine<GROUP>(s, [](State a, State b) { return merge(a, b); });
  if (!live || lane != 0) return;
#if SPLITS > 1
  parts[split * rows + row] = s;
#else
  acc_t result[1] = {finish(s, COUNT)};
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, row);
#endif
}

#elif COLUMNWISE
// The middle of [OUTER, LEN, INNER]: a thread has V neighbouring columns, DEPTH threads share (a part of) a column.
extern "C" __global__ void __launch_bounds__(COLUMNS* DEPTH)
    KERNEL_NAME(const elem_t* x RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ State shares[DEPTH][COLUMNS * V];
  dependency_wait();
  const index_t len = LEN, inner = INNER, columns = index_t(OUTER) * inner;
  const index_t column = (index_t(blockIdx.x / SPLITS) * COLUMNS + threadIdx.x) * V;
  const int split = blockIdx.x % SPLITS;
  const bool live = column < columns;
  const index_t chunk = (len + SPLITS - 1) / SPLITS;
  const index_t end = SPLITS > 1 ? min(len, (split + 1) * chunk) : len;
  State s[V];
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = start();
  if (live) {
    const elem_t* in = x + (column / inner * len * inner + column % inner);
#pragma unroll 4
    for (index_t l = (SPLITS > 1 ? split * chunk : 0) + threadIdx.y; l < end; l += DEPTH) {
      acc_t v[V];
      load_wide(v, in + l * inner);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s[j], v[j]);
    }
  }
  launch_dependents();
  if (DEPTH > 1) {
#pragma unroll
    for (int j = 0; j < V; ++j) shares[threadIdx.y][threadIdx.x * V + j] = s[j];
    __syncthreads();
  }
  if (!live || threadIdx.y != 0) return;
#pragma unroll
  for (int d = 1; d < DEPTH; ++d) {
#pragma unroll
    for (int j = 0; j < V; ++j) s[j] = merge(s[j], shares[d][threadIdx.x * V + j]);
  }
#if SPLITS > 1
#pragma unroll
  for (int j = 0; j < V; ++j) parts[split * columns + column + j] = s[j];
#else
  acc_t result[V];
#pragma unroll
  for (int j = 0; j < V; ++j) result[j] = finish(s[j], COUNT);
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, column);
#endif
}

#else
// Any interleaving of kept and reduced dimensions: GROUP threads for each result.
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
    KERNEL_NAME(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t kept[KEPT] = KEPT_SIZES, kept_stride[KEPT] = KEPT_STRIDES;
  const index_t reduced[REDUCED] = REDUCED_SIZES, reduced_stride[REDUCED] = REDUCED_STRIDES;
  const index_t which = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const index_t len = LEN;
  const int lane = threadIdx.x % GROUP;
  const bool live = which < index_t(RESULTS);
  State s = start();
  if (live) {
    index_t at = 0, rest = which;
#pragma unroll
    for (int d = KEPT - 1; d >= 0; --d) {
      at += rest % kept[d] * kept_stride[d];
      rest /= kept[d];
    }
    const elem_t* in = x + at;
#pragma unroll 4
    for (index_t i = lane; i < len; i += GROUP) {
      index_t to = 0, left = i;
#pragma unroll
      for (int d = REDUCED - 1; d >= 0; --d) {
        to += left % reduced[d] * reduced_stride[d];
        left /= reduced[d];
      }
      see(s, load_as<acc_t>(in + to));
    }
  }
  launch_dependents();
  s = group_combine<GROUP>(s, [](State a, State b) { return merge(a, b); });
  if (!live || lane != 0) return;
  acc_t result[1] = {finish(s, COUNT)};
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, which);
}
#endif
