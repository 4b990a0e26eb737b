// No pointer to activations is restrict-qualified: such loads count as invariant, and could move above the dependency wait.

// Reductions over a group of threads: a power-of-two slice of a warp, or a whole block. Every thread of the group gets
// the same bits, and the order of combination never depends on timing.

constexpr unsigned ALL_LANES = 0xffffffffu;

// `value` of the lane whose number differs in `mask`; any plain type, word by word.
template <class S>
DEVICE S shuffle_xor(const S& value, int mask) {
  constexpr int WORDS = (sizeof(S) + 3) / 4;
  unsigned words[WORDS] = {};
  memcpy(words, &value, sizeof(S));
#pragma unroll
  for (int w = 0; w < WORDS; ++w) words[w] = __shfl_xor_sync(ALL_LANES, words[w], mask);
  S other;
  memcpy(&other, words, sizeof(S));
  return other;
}

// Of two parts either may come first.
template <class F> DEVICE constexpr bool is_symmetric(const F&) { return false; }
struct Sum {
  // Never contracted with the product that made a part.
  DEVICE float operator()(float a, float b) const { return __fadd_rn(a, b); }
  DEVICE double operator()(double a, double b) const { return __dadd_rn(a, b); }
  template <class C> DEVICE C operator()(C a, C b) const { return a + b; }
};
struct Largest {
  template <class C> DEVICE C operator()(C a, C b) const { return max(a, b); }
};
DEVICE constexpr bool is_symmetric(const Sum&) { return true; }
DEVICE constexpr bool is_symmetric(const Largest&) { return true; }

// Over aligned groups of LANES. `f` gets the lower lanes' part first, so every lane computes the same bits even where the
// compiler contracts `f` into something that is not symmetric; or F says that it stays symmetric.
template <int LANES, class S, class F>
DEVICE S lanes_combine(S value, F f) {
#pragma unroll
  for (int mask = 1; mask < LANES; mask *= 2) {
    const S other = shuffle_xor(value, mask);
    const bool upper = !is_symmetric(f) && threadIdx.x & mask;
    value = f(upper ? other : value, upper ? value : other);
  }
  return value;
}

// Over the groups of GROUP consecutive threads; a GROUP above 32 is the whole block. Every thread of the block calls it.
template <int GROUP, class S, class F>
DEVICE S group_combine(S value, F f) {
  static_assert(GROUP > 0 && GROUP <= 1024 && (GROUP & (GROUP - 1)) == 0, "a group is a power of two");
  if constexpr (GROUP <= 32) {
    return lanes_combine<GROUP>(value, f);
  } else {
    constexpr int WARPS = GROUP / 32;
    __shared__ S parts[WARPS];
    value = lanes_combine<32>(value, f);
    __syncthreads();  // the previous call's parts have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    return lanes_combine<WARPS>(parts[threadIdx.x % WARPS], f);
  }
}

template <int GROUP, class C>
DEVICE C group_sum(C value) {
  return group_combine<GROUP>(value, Sum{});
}

// NaN only where every value is NaN: what follows a maximum here brings NaN back by itself.
template <int GROUP, class C>
DEVICE C group_max(C value) {
  return group_combine<GROUP>(value, Largest{});
}

// V consecutive elements in the accumulator's class.
template <int V, class C, class E>
DEVICE void load_wide(C (&out)[V], const E* from) {
  const Vec<E, V> packed = load_vec<V>(from);
#pragma unroll
  for (int j = 0; j < V; ++j) out[j] = widen(packed.v[j]);
}

template <class C>
DEVICE C infinity() {
  if constexpr (sizeof(C) == 8) return C(__longlong_as_double(0x7ff0000000000000ll));
  else return C(__int_as_float(0x7f800000));
}

// Elements of 16 bits gain nothing from the last bits of exp.
template <class E, class C>
DEVICE C exp_for(C x) {
  if constexpr (sizeof(E) == 2) return __expf(x);
  else return exp(x);
}
