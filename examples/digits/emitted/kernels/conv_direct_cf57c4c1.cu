// conv.direct: batch x [8x8] of 1 channels -> [8x8] of 32 filters, kernel 3x3, stride 1x1, dilation 1x1, pad 1x1, 1 groups, f32 (conv.direct/1)

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
#define SCALED 0
typedef float element_t;
constexpr int CHANNELS = 1;
constexpr int FILTERS = 32;
constexpr int GROUPS = 1;
constexpr int CG = 1;
constexpr int NG = 32;
constexpr int LAST = 0;
constexpr index_t ID = 1;
constexpr index_t OD = 1;
constexpr int KD = 1, SD = 1, DD = 1, PD = 0;
constexpr index_t IH = 8;
constexpr index_t OH = 8;
constexpr int KH = 3, SH = 1, DH = 1, PH = 1;
constexpr index_t IW = 8;
constexpr index_t OW = 8;
constexpr int KW = 3, SW = 1, DW = 1, PW = 1;
#define N sym_batch
#define M (64*sym_batch)
#define SYMBOL_PARAMS , int sym_batch
#define SYMBOL_NAMES , sym_batch
#define ADDED_CHANNELS 0
typedef float pixel_t;
constexpr index_t OFFSET = 0;
constexpr index_t XN = 64;
constexpr index_t XD = 0;
constexpr index_t XH = 8;
constexpr index_t XW = 1;
constexpr index_t XC = 64;
// epilogue: (f32, f32) { %2 = add %0 %1; %3 = relu %2 } -> %3:f32
typedef float acc_t;
struct Epilogue {
  const float* e0;
  float* out;
  index_t sym_batch;

  // Elements i to i + V - 1 of the output, from their accumulators.
  template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i) const {
    const index_t c1 = i / 64 % 32;
    const float x1 = widen(e0[c1]);
    Vec<float, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x0 = acc[j];
      const float r2 = x0 + x1;
      const float r3 = pw_relu(r2);
      result.v[j] = narrow<float>(r3);
    }
    store_vec<V>(out + i, result);
  }
};
#define EPILOGUE_PARAMS , const float* e0, float* out
#define EPILOGUE Epilogue{e0, out, sym_batch}
// conv.simt, direct: one thread sums one output element, with the weights as the model has them. For weights that are
// computed at run time and for groups too small to tile. Pixels may be of any type and lie anywhere.

extern "C" __global__ void __launch_bounds__(128)
    conv_direct_cf57c4c1(const pixel_t* x, const element_t* w
#if SCALED
                , const element_t* scales
#endif
#if ADDED_CHANNELS
                , const element_t* added_x, const element_t* added_w
#endif
                EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  const index_t i = (index_t)blockIdx.x * 128 + threadIdx.x;
  const index_t pixels = OD * OH * OW;
  launch_dependents();
  dependency_wait();
  if (i >= M * FILTERS) return;
  const int filter = LAST ? i % FILTERS : i / pixels % FILTERS;
  const index_t pixel = LAST ? i / FILTERS % pixels : i % pixels;
  const index_t image = i / (pixels * FILTERS);
  const int z0 = pixel / (OH * OW) * SD - PD, y0 = pixel / OW % OH * SH - PH, x0 = pixel % OW * SW - PW;
  const pixel_t* from = x + (OFFSET + image * XN + (index_t)(filter / NG * CG) * XC);
  const element_t* weights = w + (index_t)filter * (CG * KD * KH * KW);
  acc_t sum[1] = {0};
  for (int a = 0; a < KD; ++a) {
    const int z = z0 + a * DD;
    if ((unsigned)z >= (unsigned)ID) continue;
    for (int r = 0; r < KH; ++r) {
      const int y = y0 + r * DH;
      if ((unsigned)y >= (unsigned)IH) continue;
      for (int s = 0; s < KW; ++s) {
        const int column = x0 + s * DW;
        if ((unsigned)column >= (unsigned)IW) continue;
        const pixel_t* at = from + (z * XD + y * XH + column * XW);
        const element_t* tap = weights + (a * KH + r) * KW + s;
#pragma unroll 4
        for (int c = 0; c < CG; ++c) {
          acc_t value = widen(narrow<element_t>(widen(at[c * XC])));
#if SCALED
          value = widen(narrow<element_t>(value * widen(scales[image * CHANNELS + filter / NG * CG + c])));
#endif
          sum[0] += value * widen(tap[c * (KD * KH * KW)]);
        }
      }
    }
  }
#if ADDED_CHANNELS
  const index_t z = pixel / (OH * OW) * ADDED_SD, y = pixel / OW % OH * ADDED_SH, column = pixel % OW * ADDED_SW;
  if (z < ADDED_ID && y < ADDED_IH && column < ADDED_IW) {
    const index_t size = ADDED_ID * ADDED_IH * ADDED_IW, at = (z * ADDED_IH + y) * ADDED_IW + column;
    added_x += image * size * ADDED_CHANNELS + at * (LAST ? ADDED_CHANNELS : 1);
    added_w += (index_t)filter * ADDED_CHANNELS;
    const index_t apart = LAST ? 1 : size;
#pragma unroll 4
    for (int c = 0; c < ADDED_CHANNELS; ++c) sum[0] += widen(added_x[c * apart]) * widen(added_w[c]);
  }
#endif
  EPILOGUE.store<1>(sum, i);
}
