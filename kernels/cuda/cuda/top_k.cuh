// The K largest or smallest along the middle of [OUTER, LEN, INNER], one block for each row. Elements become unsigned keys that
// sort the wanted way; with the index as a tie breaker no two items are equal, so the result does not depend on timing.

#if WIDE_KEY
typedef unsigned long long key_t;
#else
typedef unsigned key_t;
#endif

struct Item {
  key_t key;
  unsigned rank;  // ~index: of equal keys the lower index comes first
};

// NaN counts as the largest number; both zeros are equal.
DEVICE key_t order(float x) {
  const unsigned bits = x != x ? 0x7fffffffu : __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE unsigned long long order(double x) {
  const unsigned long long bits =
      x != x ? 0x7fffffffffffffffull : (unsigned long long)__double_as_longlong(x == 0.0 ? 0.0 : x);
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
DEVICE key_t order(f16 x) { return order(to_float(x)); }
DEVICE key_t order(bf16 x) { return order(to_float(x)); }
DEVICE key_t order(uint8_t x) { return x; }
DEVICE key_t order(uint16_t x) { return x; }
DEVICE key_t order(uint32_t x) { return x; }
DEVICE unsigned long long order(uint64_t x) { return x; }
DEVICE key_t order(bool x) { return x; }
DEVICE key_t order(int8_t x) { return unsigned(int(x)) ^ 0x80000000u; }
DEVICE key_t order(int16_t x) { return unsigned(int(x)) ^ 0x80000000u; }
DEVICE key_t order(int32_t x) { return unsigned(x) ^ 0x80000000u; }
DEVICE unsigned long long order(int64_t x) { return (unsigned long long)x ^ 0x8000000000000000ull; }

DEVICE Item item(elem_t x, index_t index) {
  const key_t key = key_t(order(x));
  return Item{LARGEST ? key : key_t(~key), ~unsigned(index)};
}
DEVICE bool above(Item a, Item b) { return a.key != b.key ? a.key > b.key : a.rank > b.rank; }

// Sorts SIZE items, a power of two, the first to come out first. Every thread of the block calls it.
template <int SIZE>
DEVICE void sort(Item* items) {
  for (int width = 2; width <= SIZE; width *= 2) {
    for (int gap = width / 2; gap > 0; gap /= 2) {
      __syncthreads();
      for (int t = threadIdx.x; t < SIZE / 2; t += THREADS) {
        const int low = t / gap * gap * 2 + t % gap, high = low + gap;
        const Item a = items[low], b = items[high];
        if (above(b, a) == ((low & width) == 0)) {
          items[low] = b;
          items[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

#if RADIX
// Digit d of an item, the lowest being 0: four of the rank, then those of the key.
DEVICE unsigned digit(Item i, int d) { return unsigned(d < 4 ? i.rank >> 8 * d : i.key >> 8 * (d - 4)) & 255u; }
// Whether all digits above d are equal.
DEVICE bool alike(Item a, Item b, int d) {
  if (d < 4) return a.key == b.key && a.rank >> 8 * d >> 8 == b.rank >> 8 * d >> 8;
  return a.key >> 8 * (d - 4) >> 8 == b.key >> 8 * (d - 4) >> 8;
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const elem_t* x, elem_t* values, long long* indices SYMBOL_PARAMS) {
  dependency_wait();
  const index_t len = LEN, inner = INNER, row = blockIdx.x;
  const elem_t* in = x + (row / inner * len * inner + row % inner);
  const index_t to = row / inner * index_t(K) * inner + row % inner;
  const index_t wanted = min(index_t(K), len);
  auto write = [&](index_t j, Item i) {
    const index_t index = index_t(~i.rank);
    values[to + j * inner] = in[index * inner];
    indices[to + j * inner] = index;
  };

#if SORT
  // The whole row in shared memory.
  __shared__ Item items[SIZE];
  for (index_t i = threadIdx.x; i < SIZE; i += THREADS) items[i] = i < len ? item(in[i * inner], i) : Item{0, 0};
  launch_dependents();
  sort<SIZE>(items);
  for (index_t j = threadIdx.x; j < wanted; j += THREADS) write(j, items[j]);

#elif RADIX
  // Finds the smallest wanted item digit by digit, gathers what is not below it, and sorts that.
  __shared__ Item items[SIZE];
  __shared__ unsigned histogram[256];
  __shared__ unsigned chosen, remaining, bucket, filled;
  Item least = {0, 0};
  if (threadIdx.x == 0) {
    remaining = wanted;
    filled = 0;
  }
  for (int d = int(sizeof(key_t)) + 3; d >= 0 && wanted > 0; --d) {
    for (int b = threadIdx.x; b < 256; b += THREADS) histogram[b] = 0;
    __syncthreads();
    for (index_t i = threadIdx.x; i < len; i += THREADS) {
      const Item candidate = item(in[i * inner], i);
      if (alike(candidate, least, d)) atomicAdd(&histogram[digit(candidate, d)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      // Lane l has eight buckets, the uppermost first; the lane where the count is reached finds the bucket.
      const unsigned need = remaining;
      unsigned own = 0;
      for (int b = 0; b < 8; ++b) own += histogram[255 - threadIdx.x * 8 - b];
      unsigned until = own;
#pragma unroll
      for (int s = 1; s < 32; s *= 2) {
        const unsigned below = __shfl_up_sync(ALL_LANES, until, s);
        if (threadIdx.x >= s) until += below;
      }
      unsigned before = until - own;
      if (before < need && need <= until) {
        int b = 255 - threadIdx.x * 8;
        while (before + histogram[b] < need) before += histogram[b--];
        chosen = b;
        remaining = need - before;
        bucket = histogram[b];
      }
    }
    __syncthreads();
    if (d < 4) least.rank |= chosen << 8 * d;
    else least.key |= key_t(chosen) << 8 * (d - 4);
    const bool all = bucket == remaining;
    __syncthreads();
    if (all) break;  // the whole bucket is wanted: lower digits decide nothing
  }
  for (int i = threadIdx.x; i < SIZE; i += THREADS) items[i] = Item{0, 0};
  __syncthreads();
  for (index_t i = threadIdx.x; i < len && wanted > 0; i += THREADS) {
    const Item candidate = item(in[i * inner], i);
    if (!above(least, candidate)) items[atomicAdd(&filled, 1u)] = candidate;
  }
  launch_dependents();
  sort<SIZE>(items);
  for (index_t j = threadIdx.x; j < wanted; j += THREADS) write(j, items[j]);

#else
  // One by one: the first of all that come after the previous one. Slow, but right for any K and LEN.
  Item last = {~key_t(0), ~0u};
  for (index_t j = 0; j < wanted; ++j) {
    Item best = {0, 0};
    for (index_t i = threadIdx.x; i < len; i += THREADS) {
      const Item candidate = item(in[i * inner], i);
      if ((j == 0 || above(last, candidate)) && above(candidate, best)) best = candidate;
    }
    last = group_combine<THREADS>(best, [](Item a, Item b) { return above(a, b) ? a : b; });
    if (threadIdx.x == 0) write(j, last);
  }
  launch_dependents();
#endif
}
