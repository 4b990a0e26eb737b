// pool of f32: pool/1 threads256 v1

// prelude: types, conversions, vectors, and what else of it is used below

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

// Flat indices of elements: 32 bits unless the source asks for 64.
#ifndef INDEX_TYPE
#define INDEX_TYPE int
#endif
typedef INDEX_TYPE index_t;

#define DEVICE __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)

// ---- half precision: storage only; everything computes in float

struct alignas(2) f16 {
  unsigned short bits;
};
struct alignas(2) bf16 {
  unsigned short bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
DEVICE float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <class T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE f16 from_float<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <> DEVICE bf16 from_float<bf16>(float x) {
  bf16 y;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  unsigned u = __float_as_uint(x);
  y.bits = x != x ? 0x7fff : (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
  return y;
}

// Two at once: the low half is `a`.
template <class T> DEVICE uint32_t pack2(float a, float b) {
  return (uint32_t)from_float<T>(a).bits | (uint32_t)from_float<T>(b).bits << 16;
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE uint32_t pack2<f16>(float a, float b) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(b), "f"(a));
  return y;
}
template <> DEVICE uint32_t pack2<bf16>(float a, float b) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(b), "f"(a));
  return y;
}
#endif

// ---- classes: an element is widened to what it computes in, and narrowed to be stored (ONNX Cast)

DEVICE float widen(float x) { return x; }
DEVICE float widen(f16 x) { return to_float(x); }
DEVICE float widen(bf16 x) { return to_float(x); }
DEVICE double widen(double x) { return x; }
DEVICE bool widen(bool x) { return x; }
DEVICE long long widen(int8_t x) { return x; }
DEVICE long long widen(int16_t x) { return x; }
DEVICE long long widen(int32_t x) { return x; }
DEVICE long long widen(int64_t x) { return x; }
DEVICE long long widen(uint8_t x) { return x; }
DEVICE long long widen(uint16_t x) { return x; }
DEVICE long long widen(uint32_t x) { return x; }
DEVICE long long widen(uint64_t x) { return (long long)x; }

// To an integer type: floats truncate and saturate, NaN gives 0; integers wrap.
template <class T, class F> DEVICE T truncated(F x) {
  constexpr bool is_unsigned = T(-1) > T(0);
  if (x != x) return 0;
  if (sizeof(T) == 8) return is_unsigned ? (T)(unsigned long long)max(x, F(0)) : (T)(long long)x;
  constexpr int bits = sizeof(T) < 8 ? 8 * sizeof(T) - !is_unsigned : 32;
  constexpr long long high = (1ll << bits) - 1;
  return (T)min(max((long long)x, is_unsigned ? 0 : -high - 1), high);
}
template <class T> DEVICE T to_integer(float x) { return truncated<T>(x); }
template <class T> DEVICE T to_integer(double x) { return truncated<T>(x); }
template <class T> DEVICE T to_integer(long long x) { return (T)x; }
template <class T> DEVICE T to_integer(bool x) { return (T)x; }

template <class T> struct Narrow {
  template <class C> static DEVICE T from(C x) { return to_integer<T>(x); }
};
template <> struct Narrow<float> {
  template <class C> static DEVICE float from(C x) { return (float)x; }
};
template <> struct Narrow<double> {
  template <class C> static DEVICE double from(C x) { return (double)x; }
};
template <> struct Narrow<f16> {
  template <class C> static DEVICE f16 from(C x) { return from_float<f16>((float)x); }
  static DEVICE f16 from(double x) {
    f16 y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x));
    return y;
  }
};
template <> struct Narrow<bf16> {
  template <class C> static DEVICE bf16 from(C x) { return from_float<bf16>((float)x); }
};
template <> struct Narrow<bool> {
  template <class C> static DEVICE bool from(C x) { return x != C(0); }
};
template <class T, class C> DEVICE T narrow(C x) { return Narrow<T>::from(x); }

template <class C, class T> DEVICE C load_as(const T* p) { return widen(*p); }
template <class T, class C> DEVICE void store_as(T* p, C x) { *p = narrow<T>(x); }

// ---- vectors: V elements loaded or stored by as few accesses as their alignment allows, 16 bytes at most

template <class T, int V> struct alignas(sizeof(T) * V) Vec {
  T v[V];
};

template <int BYTES> struct Word;
template <> struct Word<1> { typedef unsigned char type; };
template <> struct Word<2> { typedef unsigned short type; };
template <> struct Word<4> { typedef unsigned int type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };

// V elements of which ALIGN at a time are aligned.
template <int V, int ALIGN, class T> DEVICE Vec<T, V> load_row(const T* p) {
  constexpr int together = ALIGN < V ? ALIGN : V;
  constexpr int bytes = sizeof(T) * together < 16 ? sizeof(T) * together : 16;
  typedef typename Word<bytes>::type W;
  Vec<T, V> out;
#pragma unroll
  for (int i = 0; i < (int)sizeof(T) * V / bytes; ++i) reinterpret_cast<W*>(out.v)[i] = reinterpret_cast<const W*>(p)[i];
  return out;
}
template <int V, int ALIGN, class T> DEVICE void store_row(T* p, const Vec<T, V>& x) {
  constexpr int together = ALIGN < V ? ALIGN : V;
  constexpr int bytes = sizeof(T) * together < 16 ? sizeof(T) * together : 16;
  typedef typename Word<bytes>::type W;
#pragma unroll
  for (int i = 0; i < (int)sizeof(T) * V / bytes; ++i) reinterpret_cast<W*>(p)[i] = reinterpret_cast<const W*>(x.v)[i];
}
template <int V, class T> DEVICE Vec<T, V> load_vec(const T* p) { return load_row<V, V>(p); }
template <int V, class T> DEVICE void store_vec(T* p, const Vec<T, V>& x) { store_row<V, V>(p, x); }

// ---- pointwise functions (the table in kernels/host/src/pointwise.rs)

DEVICE long long floor(long long a) { return a; }
DEVICE long long ceil(long long a) { return a; }
DEVICE long long rint(long long a) { return a; }
DEVICE long long trunc(long long a) { return a; }

DEVICE bool pw_not(bool a) { return !a; }
DEVICE long long pw_not(long long a) { return ~a; }

DEVICE float pw_div(float a, float b) { return a / b; }
DEVICE double pw_div(double a, double b) { return a / b; }
// Division by zero, and the one quotient that does not fit, give 0.
DEVICE long long pw_div(long long a, long long b) { return b == 0 || (b == -1 && a == -a && a != 0) ? 0 : a / b; }

// For divisors of at least 1, within 2 units in the last place, and 0 from 2^126 on.
DEVICE float pw_quotient(float a, float b) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(b));
  return a * y;
}
DEVICE double pw_quotient(double a, double b) { return a / b; }

// e^a for sums with at least 1: within (2 + |a|) units in the last place, and 0 below the smallest normal number. A quarter of
// what expf takes.
DEVICE float pw_power(float a) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a * 1.4426950408889634f));
  return y;
}
DEVICE double pw_power(double a) { return exp(a); }

// x P(x) = max(x, 0) - |x| P(-|x|), where P is the normal distribution, and the binary logarithm of P(-|x|) is nearly a polynomial,
// here `power`. One approximation of the hardware, where erf by quotient and power takes two, and no branches. From 10 on, P(-|x|) is
// below 1e-20 and may stay what it is.
DEVICE float gelu_distance(float a) { return fminf(fabsf(a), 10.f); }
DEVICE float gelu_of(float a, float x, float power) {
  float tail, positive;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(power));
#if __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(positive) : "f"(a));
#else
  positive = a < 0.f ? 0.f : a;
#endif
  return fmaf(-x, tail, positive);
}

// Within 2.5e-7, and within 1.1e-5 of P(-|x|) for |x| up to 4.
DEVICE float pw_gelu(float a) {
  const float x = gelu_distance(a);
  float power = fmaf(3.54744807e-05f, x, -0.000785611628f);
  power = fmaf(fmaf(fmaf(power, x, 0.00811325666f), x, -0.0534150079f), x, -0.458818108f);
  return gelu_of(a, x, fmaf(fmaf(power, x, -1.1511656f), x, -0.999998987f));
}
// To be rounded to a half: within 7e-5, and within 5.1e-4 of P(-|x|) for |x| up to 4. What is rounded then is off by 2.1e-4 to 2.6e-4 in
// the mean of squares, 2.1e-4 of it by rounding.
DEVICE float pw_gelu_half(float a) {
  const float x = gelu_distance(a);
  const float power = fmaf(fmaf(0.00263449177f, x, -0.037127614f), x, -0.479849875f);
  return gelu_of(a, x, fmaf(fmaf(power, x, -1.14141858f), x, -1.00073087f));
}
// GELU by tanh likewise, whose P(-|x|) is 1 / (1 + e^(sqrt(8 / pi) (|x| + 0.044715 |x|^3))): within 9e-5, and within 6e-4 of it for |x|
// up to 3.9, where quotient and power are two approximations of the hardware.
DEVICE float pw_gelu_tanh_half(float a) {
  const float x = gelu_distance(a);
  const float power = fmaf(fmaf(fmaf(-0.000553058053f, x, -0.00223020604f), x, -0.018332554f), x, -0.496197909f);
  return gelu_of(a, x, fmaf(fmaf(power, x, -1.13732326f), x, -1.00081658f));
}
DEVICE double pw_gelu(double a) { return 0.5 * a * (1.0 + erf(a * 0.70710678118654752)); }

DEVICE float pw_rem(float a, float b) { return fmodf(a, b); }
DEVICE double pw_rem(double a, double b) { return fmod(a, b); }
DEVICE long long pw_rem(long long a, long long b) { return b == 0 || b == -1 ? 0 : a % b; }

DEVICE float pw_mod(float a, float b) { return a - floorf(a / b) * b; }
DEVICE double pw_mod(double a, double b) { return a - floor(a / b) * b; }
DEVICE long long pw_mod(long long a, long long b) {
  long long r = pw_rem(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

DEVICE float pw_pow(float a, float b) { return powf(a, b); }
DEVICE double pw_pow(double a, double b) { return pow(a, b); }
// Wraps; a negative exponent gives 0 except for bases 1 and -1.
DEVICE long long pw_pow(long long a, long long b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? 1 - 2 * (b & 1) : 0;
  if (b > 0xffffffffll) b = 0xffffffffll;
  unsigned long long base = a, out = 1;
  for (; b; b >>= 1, base *= base)
    if (b & 1) out *= base;
  return out;
}

// NaN in either operand gives NaN.
template <class T> DEVICE T pw_min(T a, T b) { return a < b || a != a ? a : b; }
template <class T> DEVICE T pw_max(T a, T b) { return a > b || a != a ? a : b; }
template <class T> DEVICE T pw_relu(T a) { return a < T(0) ? T(0) : a; }
#if __CUDA_ARCH__ >= 800
// One instruction each, where comparisons and selections are three.
DEVICE float pw_min(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
DEVICE float pw_max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
DEVICE float pw_relu(float a) { return pw_max(a, 0.f); }
#endif

DEVICE long long pw_shl(long long a, long long b) { return b >= 0 && b < 64 ? (unsigned long long)a << b : 0; }
DEVICE long long pw_shr(long long a, long long b) { return b >= 0 && b < 64 ? (unsigned long long)a >> b : 0; }

DEVICE bool pw_is_inf(float a) { return fabsf(a) == INFINITY; }
DEVICE bool pw_is_inf(double a) { return fabs(a) == (double)INFINITY; }
DEVICE bool pw_is_inf(long long) { return false; }

// ---- programmatic dependent launch: no-ops where the hardware or the launch has none

DEVICE void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- this kernel

#define PREFETCH_PARAMS , const unsigned char* prefetch_from, int prefetch_bytes, int prefetch_share
#define PREFETCH(asks) prefetch(asks, prefetch_from, prefetch_bytes, prefetch_share)

// Asks the weights of a later kernel from memory into L2: `bytes`, a multiple of 16, `share` for each block.
DEVICE void prefetch(bool asks, const unsigned char* from, int bytes, int share) {
#if __CUDA_ARCH__ >= 900
  if (!asks) return;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned long long first = (unsigned long long)block * share;
  if (first >= bytes) return;
  const int size = min(share, bytes - (int)first);
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from + first), "r"(size) : "memory");
#endif
}
typedef float elem_t;
#define SYMBOL_PARAMS , int sym_batch
#define KIND AVERAGE
constexpr int POWER = 1;
#define COUNT_PADS 0
#define FLOATING 1
#define CHANNELS_LAST 0
#define N sym_batch
constexpr index_t CHANNELS = 64;
#define GLOBAL 0
constexpr int RANK = 2;
constexpr int UNROLL = 2;
#define INPUT_SIZES {4, 4}
#define OUTPUT_SIZES {2, 2}
#define WINDOW_SIZES {2, 2}
#define STRIDES {2, 2}
#define DILATIONS {1, 1}
#define PADS {0, 0}
#define PADS_END {0, 0}
constexpr int THREADS = 256;
constexpr int V = 1;
// epilogue: (f32) { } -> %0:f32
typedef float acc_t;
struct Epilogue {
  float* out;
  index_t sym_batch;

  // Elements i to i + V - 1 of the output, from their accumulators.
  template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i) const {
    Vec<float, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x0 = acc[j];
      result.v[j] = narrow<float>(x0);
    }
    store_vec<V>(out + i, result);
  }
};
#define EPILOGUE_PARAMS , float* out
#define EPILOGUE Epilogue{out, sym_batch}
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
// Pooling over RANK spatial dimensions.

enum Kind { MAX, AVERAGE, LP };

// Below every element.
template <class C> DEVICE C lowest() { return C(-infinity<C>()); }
template <> DEVICE long long lowest<long long>() { return (long long)0x8000000000000000ull; }

DEVICE acc_t start() { return KIND == MAX ? lowest<acc_t>() : acc_t(0); }
DEVICE acc_t merge(acc_t a, acc_t b) { return KIND == MAX ? pw_max(a, b) : a + b; }
DEVICE void see(acc_t& s, acc_t x) {
  if constexpr (KIND == LP) {
    acc_t power = 1;
    const acc_t size = x < acc_t(0) ? -x : x;
#pragma unroll
    for (int p = 0; p < POWER; ++p) power *= size;
    s += power;
  } else {
    s = merge(s, x);
  }
}
DEVICE acc_t finish(acc_t s, index_t count) {
  if constexpr (KIND == AVERAGE) return pw_div(s, acc_t(count));
#if FLOATING
  if constexpr (KIND == LP) return POWER == 1 ? s : POWER == 2 ? acc_t(sqrt(s)) : acc_t(pow(s, acc_t(1) / acc_t(POWER)));
#endif
  return s;
}

#if GLOBAL && CHANNELS_LAST
// The window is the whole of [N, LEN, CHANNELS]: a thread has V neighbouring channels, DEPTH threads share the positions.
extern "C" __global__ void __launch_bounds__(COLUMNS* DEPTH)
    pool_73e9a95f(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ acc_t shares[DEPTH][COLUMNS * V];
  dependency_wait();
  const index_t len = LEN, channels = CHANNELS;
  const index_t column = (index_t(blockIdx.x) * COLUMNS + threadIdx.x) * V;
  const bool live = column < index_t(N) * channels;
  acc_t s[V];
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = start();
  if (live) {
    const elem_t* in = x + (column / channels * len * channels + column % channels);
#pragma unroll 4
    for (index_t l = threadIdx.y; l < len; l += DEPTH) {
      acc_t v[V];
      load_wide(v, in + l * channels);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s[j], v[j]);
    }
  }
  launch_dependents();
#pragma unroll
  for (int j = 0; j < V; ++j) shares[threadIdx.y][threadIdx.x * V + j] = s[j];
  __syncthreads();
  if (!live || threadIdx.y != 0) return;
#pragma unroll
  for (int j = 0; j < V; ++j) {
#pragma unroll
    for (int d = 1; d < DEPTH; ++d) s[j] = merge(s[j], shares[d][threadIdx.x * V + j]);
    s[j] = finish(s[j], len);
  }
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(s, column);
}

#elif GLOBAL
// The window is the whole of [N, CHANNELS, LEN]: GROUP threads for each channel, ROWS channels in a block.
extern "C" __global__ void __launch_bounds__(GROUP* ROWS)
    pool_73e9a95f(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t len = LEN;
  const index_t row = index_t(blockIdx.x) * ROWS + threadIdx.x / GROUP;
  const int lane = threadIdx.x % GROUP;
  const bool live = row < index_t(N) * index_t(CHANNELS);
  acc_t s = start();
  if (live) {
#pragma unroll 4
    for (index_t i = lane * V; i < len; i += GROUP * V) {
      acc_t v[V];
      load_wide(v, x + row * len + i);
#pragma unroll
      for (int j = 0; j < V; ++j) see(s, v[j]);
    }
  }
  launch_dependents();
  s = group_combine<GROUP>(s, [](acc_t a, acc_t b) { return merge(a, b); });
  if (!live || lane != 0) return;
  acc_t result[1] = {finish(s, len)};
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(result, row);
}

#else
// Calls `f` with the flat position of every window element inside the input.
template <int D, class F>
DEVICE void walk(const index_t (&first)[RANK], const index_t (&window)[RANK], const int (&step)[RANK],
                 const index_t (&extent)[RANK], index_t at, F& f) {
  if constexpr (D == RANK) {
    f(at);
  } else {
#pragma unroll UNROLL
    for (index_t r = 0; r < window[D]; ++r) {
      const index_t p = first[D] + r * step[D];
      if (p >= 0 && p < extent[D]) walk<D + 1>(first, window, step, extent, at * extent[D] + p, f);
    }
  }
}

// Window positions r with 0 <= first + r * step < end.
DEVICE index_t positions(index_t first, index_t window, int step, index_t end) {
  const index_t below = first < 0 ? (step - 1 - first) / step : 0;
  const index_t until = end > first ? (end - first + step - 1) / step : 0;
  return max(min(window, until) - below, index_t(0));
}

// A thread has V neighbouring channels (or one element, channels first).
extern "C" __global__ void __launch_bounds__(THREADS)
    pool_73e9a95f(const elem_t* x EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  dependency_wait();
  const index_t input[RANK] = INPUT_SIZES, output[RANK] = OUTPUT_SIZES, window[RANK] = WINDOW_SIZES;
  const int stride[RANK] = STRIDES, step[RANK] = DILATIONS, pad[RANK] = PADS, pad_end[RANK] = PADS_END;
  const index_t channels = CHANNELS;
  const index_t at = (index_t(blockIdx.x) * THREADS + threadIdx.x) * V;
  index_t rest = at, channel = 0;
  if (CHANNELS_LAST) {
    channel = rest % channels;
    rest /= channels;
  }
  index_t first[RANK], count = 1, size = 1;
#pragma unroll
  for (int d = RANK - 1; d >= 0; --d) {
    first[d] = rest % output[d] * stride[d] - pad[d];
    rest /= output[d];
    size *= input[d];
    if (KIND == AVERAGE) {
      // With COUNT_PADS the first position that counts is the first of the padding, which no window starts before.
      count *= COUNT_PADS ? positions(0, window[d], step[d], input[d] + pad_end[d] - first[d])
                          : positions(first[d], window[d], step[d], input[d]);
    }
  }
  // `rest` is the image, or (channels first) the channel of an image.
  if (rest >= (CHANNELS_LAST ? index_t(N) : index_t(N) * channels)) return;
  const elem_t* in = x + rest * size * (CHANNELS_LAST ? channels : 1) + channel;
  acc_t s[V];
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = start();
  auto visit = [&](index_t p) {
    acc_t v[V];
    load_wide(v, in + (CHANNELS_LAST ? p * channels : p));
#pragma unroll
    for (int j = 0; j < V; ++j) see(s[j], v[j]);
  };
  walk<0>(first, window, step, input, 0, visit);
  launch_dependents();
#pragma unroll
  for (int j = 0; j < V; ++j) s[j] = finish(s[j], count);
  const Epilogue epilogue = EPILOGUE;
  epilogue.store(s, at);
}
#endif
