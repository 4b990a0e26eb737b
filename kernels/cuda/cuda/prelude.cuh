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

// ---- loads under a condition

// The first `count` of V elements, at least one, or all where there are as many; the others are anything.
template <int V, int ALIGN, class T> DEVICE Vec<T, V> load_row_within(const T* p, index_t count) {
  Vec<T, V> out;
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
    // By words: halves of both ways that meet in registers would be waited for here.
    unsigned w[V / 2];
    const unsigned short* const bits = reinterpret_cast<const unsigned short*>(p);
    if (count >= V) {
      const Vec<T, V> all = load_row<V, ALIGN>(p);
#pragma unroll
      for (int i = 0; i < V / 2; ++i) w[i] = reinterpret_cast<const unsigned*>(all.v)[i];
    } else {
#pragma unroll
      for (int i = 0; i < V; i += 2) w[i / 2] = bits[i < count ? i : 0] | (unsigned)bits[i + 1 < count ? i + 1 : 0] << 16;
    }
#pragma unroll
    for (int i = 0; i < V / 2; ++i) {
      asm("" : "+r"(w[i]));
      reinterpret_cast<unsigned*>(out.v)[i] = w[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) out.v[i] = p[i < count ? i : 0];
  }
  return out;
}

// V elements, 16 bytes at most and aligned to as much, or zeros where not `inside`: then nothing is read. One instruction and
// no branch, so that many of them are on their way together.
template <int V, class T> DEVICE Vec<T, V> load_vec_if(const T* p, bool inside) {
  constexpr int bytes = sizeof(T) * V;
  static_assert(bytes <= 16 && (bytes & (bytes - 1)) == 0, "one load");
  Vec<T, V> out;
  const int flag = inside;
  if constexpr (bytes == 16) {
    uint4 w;
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
        "@p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}"
        : "=&r"(w.x), "=&r"(w.y), "=&r"(w.z), "=&r"(w.w)
        : "l"(p), "r"(flag));
    *reinterpret_cast<uint4*>(out.v) = w;
  } else if constexpr (bytes == 8) {
    uint2 w;
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.s32 p, %3, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\n@p ld.global.v2.b32 {%0, %1}, [%2];\n}"
        : "=&r"(w.x), "=&r"(w.y)
        : "l"(p), "r"(flag));
    *reinterpret_cast<uint2*>(out.v) = w;
  } else if constexpr (bytes == 4) {
    unsigned int w;
    asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\nmov.b32 %0, 0;\n@p ld.global.b32 %0, [%1];\n}"
                 : "=&r"(w)
                 : "l"(p), "r"(flag));
    *reinterpret_cast<unsigned int*>(out.v) = w;
  } else if constexpr (bytes == 2) {
    unsigned short w;
    asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\nmov.b16 %0, 0;\n@p ld.global.b16 %0, [%1];\n}"
                 : "=&h"(w)
                 : "l"(p), "r"(flag));
    *reinterpret_cast<unsigned short*>(out.v) = w;
  } else {
    out.v[0] = T{};
    if (inside) out.v[0] = *p;
  }
  return out;
}

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

// ---- warps and blocks: fixed trees, so the same operands give the same bits

template <class T> DEVICE T warp_sum(T x) {
#pragma unroll
  for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
  return x;
}
template <class T> DEVICE T warp_max(T x) {
#pragma unroll
  for (int d = 16; d; d >>= 1) x = pw_max(x, __shfl_xor_sync(0xffffffffu, x, d));
  return x;
}

// Of all THREADS (a multiple of 32) of a one-dimensional block, in every thread. `scratch`: THREADS / 32 elements of shared
// memory, reusable at once.
template <int THREADS, class T> DEVICE T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  if (THREADS == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = scratch[0];
#pragma unroll
  for (int w = 1; w < THREADS / 32; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}
template <int THREADS, class T> DEVICE T block_max(T x, T* scratch) {
  x = warp_max(x);
  if (THREADS == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T most = scratch[0];
#pragma unroll
  for (int w = 1; w < THREADS / 32; ++w) most = pw_max(most, scratch[w]);
  __syncthreads();
  return most;
}

// Four words of each of four neighbouring lanes, the other way round: lane c of the four gets word c of each.
DEVICE void transpose_quad(uint32_t (&w)[4]) {
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, c & 1 ? w[i] : w[i + 1], 1);
    if (c & 1) w[i] = other;
    else w[i + 1] = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, c & 2 ? w[i] : w[i + 2], 2);
    if (c & 2) w[i] = other;
    else w[i + 2] = other;
  }
}

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

// ---- shared memory and tensor cores

// A power of two, within 2 units in the last place; what is below the smallest normal number is 0.
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory, zeros if not `valid` (then nothing is read). Before sm_80 an ordinary copy.
DEVICE void cp_async16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#else
  *reinterpret_cast<uint4*>(shared) = valid ? *reinterpret_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}
// The same for 4 or 8 bytes, which go through L1.
template <int BYTES> DEVICE void cp_async(void* shared, const void* global, bool valid) {
  typedef typename Word<BYTES>::type W;
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(BYTES),
               "r"(valid ? BYTES : 0)
               : "memory");
#else
  *reinterpret_cast<W*>(shared) = valid ? *reinterpret_cast<const W*>(global) : W{};
#endif
}
DEVICE void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most N groups are in flight.
template <int N> DEVICE void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// Eight rows of eight halves across the warp, lane 4 r + c with columns 2 c and 2 c + 1 of row r: as columns.
DEVICE uint32_t movmatrix_trans(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// d += a * b on 16x8x8 of f16, the only shape of sm_75.
DEVICE void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b));
}

// d += a * b on 16x8x16 of T, f16 or bf16 (the latter from sm_80 on).
template <class T> DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <> DEVICE void mma_m16n8k16<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  mma_m16n8k8_f16(d, {a[0], a[1]}, b[0]);
  mma_m16n8k8_f16(d, {a[2], a[3]}, b[1]);
#endif
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// An f32 rounded to tf32, as the operand below wants it.
DEVICE uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
// d += a * b on 16x8x8 of tf32.
DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
