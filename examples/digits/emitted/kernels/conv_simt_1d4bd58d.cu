// conv.simt: batch x [8x8] of 32 channels -> [8x8] of 32 filters, kernel 3x3, stride 1x1, dilation 1x1, pad 1x1, 1 groups, f32 (conv.simt/1 m32 n32 k16 tm4 tn4 split8)

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

#define PREFETCH_PARAMS
#define PREFETCH(asks)
constexpr int BM = 32;
constexpr int BN = 32;
constexpr int BK = 16;
constexpr int TM = 4;
constexpr int TN = 4;
constexpr int VEC = 4;
#define SPLIT 8
#define BOUNDS THREADS
typedef float acc_t;
typedef float element_t;
constexpr int CHANNELS = 32;
constexpr int FILTERS = 32;
constexpr int GROUPS = 1;
constexpr int CG = 32;
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
// conv.simt: convolution as an implicit matrix product on ordinary cores, exact in the class of the elements.
//   rows = output pixels (BM to a block), columns = filters of one group (BN), k = (tap, channel) in tiles of BK.
// Weights come packed as [group][tap][channel][filters padded to whole tiles]. With at least BK channels each tap's are
// padded to whole tiles, so that a tile has one tap; fewer are folded (FOLD) and every element finds its own tap.
// Each thread owns TM x TN sums in 4x4 blocks spread over the tile, so that shared memory is read 16 bytes at a time.

constexpr bool FOLD = CG < BK;
constexpr int TAPS = KD * KH * KW;
constexpr int TAP_TILES = (CG + BK - 1) / BK;
constexpr int DEPTH = FOLD ? TAPS * CG : TAPS * TAP_TILES * BK;
constexpr int TILES = (DEPTH + BK - 1) / BK;
constexpr int COLUMN_TILES = (NG + BN - 1) / BN;
constexpr int PADDED = COLUMN_TILES * BN;
constexpr int TX = BN / TN, TY = BM / TM, THREADS = TX * TY;
constexpr int A_PITCH = BM + 4;
constexpr int A_LOADS = BM * BK / THREADS, B_LOADS = BK * BN / THREADS;
// Lanes run along what is contiguous in x: channels (k) or pixels (rows). A thread has that many rows.
constexpr int ROWS = LAST ? A_LOADS : 1;
static_assert(THREADS % BK == 0 && THREADS % BM == 0 && THREADS % BN == 0, "each thread keeps its k, its row or its column");

struct Window {
  index_t offset;
  int z, y, x;
};

DEVICE Window locate(index_t m SYMBOL_PARAMS) {
  Window window;
  const index_t image = m / (OD * OH * OW), pixel = m % (OD * OH * OW);
  window.z = pixel / (OH * OW) * SD - PD;
  window.y = pixel / OW % OH * SH - PH;
  window.x = pixel % OW * SW - PW;
  // Far outside, so that no tap of a row past the end is inside.
  if (m >= M) window.z = window.y = window.x = -(1 << 28);
  window.offset = image * (CHANNELS * ID * IH * IW) +
                  ((window.z * IH + window.y) * IW + window.x) * (LAST ? CHANNELS : 1);
  return window;
}

DEVICE element_t load_pixel(const element_t* x, const Window& window, int tap, int channel SYMBOL_PARAMS) {
  const int a = tap / (KH * KW), r = tap / KW % KH, s = tap % KW;
  const int z = window.z + a * DD, y = window.y + r * DH, i = window.x + s * DW;
  const bool inside = (unsigned)z < (unsigned)ID && (unsigned)y < (unsigned)IH && (unsigned)i < (unsigned)IW;
  const index_t delta = ((a * DD * IH + r * DH) * IW + s * DW) * (LAST ? CHANNELS : 1);
  const index_t at = window.offset + delta + channel * (LAST ? 1 : ID * IH * IW);
  return inside && channel < CG ? x[at] : element_t{};
}

extern "C" __global__ void __launch_bounds__(BOUNDS)
    conv_simt_1d4bd58d(const element_t* x, const element_t* w
#if SPLIT > 1
                , acc_t* partial SYMBOL_PARAMS PREFETCH_PARAMS) {
#else
                EPILOGUE_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
#endif
  PREFETCH(threadIdx.x == 0);
  __shared__ __align__(16) acc_t shared_a[2][BK][A_PITCH];
  __shared__ __align__(16) acc_t shared_b[2][BK][BN];
  const int thread = threadIdx.x;
  const int column_tile = blockIdx.x % COLUMN_TILES;
  const index_t row0 = (index_t)(blockIdx.x / COLUMN_TILES) * BM;
  const int split = SPLIT > 1 ? blockIdx.y : 0;
  const int first = split * TILES / SPLIT, end = (split + 1) * TILES / SPLIT;
  const int group = GROUPS > 1 ? blockIdx.z : 0;
  x += (index_t)group * CG * (LAST ? 1 : ID * IH * IW);
  w += (long long)group * DEPTH * PADDED + column_tile * BN;

  Window windows[ROWS];
#pragma unroll
  for (int q = 0; q < ROWS; ++q)
    windows[q] = locate(row0 + (LAST ? thread / BK + q * (THREADS / BK) : thread % BM) SYMBOL_NAMES);
  dependency_wait();

  element_t next_a[A_LOADS], next_b[B_LOADS];
  auto fetch = [&](int tile) {
    const int tap = tile / TAP_TILES, channel0 = tile % TAP_TILES * BK;
#pragma unroll
    for (int q = 0; q < A_LOADS; ++q) {
      const int k = LAST ? thread % BK : thread / BM + q * (THREADS / BM);
      const Window& window = windows[LAST ? q : 0];
      if constexpr (FOLD) {
        const int at = tile * BK + k;
        next_a[q] = at < DEPTH ? load_pixel(x, window, at / CG, at % CG SYMBOL_NAMES) : element_t{};
      } else {
        next_a[q] = load_pixel(x, window, tap, channel0 + k SYMBOL_NAMES);
      }
    }
#pragma unroll
    for (int q = 0; q < B_LOADS; ++q) {
      const int k = tile * BK + thread / BN + q * (THREADS / BN);
      next_b[q] = DEPTH % BK == 0 || k < DEPTH ? w[(long long)k * PADDED + thread % BN] : element_t{};
    }
  };
  auto stage = [&](int slot) {
#pragma unroll
    for (int q = 0; q < A_LOADS; ++q) {
      if (LAST)
        shared_a[slot][thread % BK][thread / BK + q * (THREADS / BK)] = widen(next_a[q]);
      else
        shared_a[slot][thread / BM + q * (THREADS / BM)][thread % BM] = widen(next_a[q]);
    }
#pragma unroll
    for (int q = 0; q < B_LOADS; ++q) shared_b[slot][thread / BN + q * (THREADS / BN)][thread % BN] = widen(next_b[q]);
  };

  const int tx = LAST ? thread % TX : thread / TY, ty = LAST ? thread / TX : thread % TY;
  acc_t acc[TM][TN] = {};
  fetch(first);
  stage(0);
  __syncthreads();
  for (int tile = first; tile < end; ++tile) {
    const int slot = (tile - first) & 1;
    if (tile + 1 < end) fetch(tile + 1);
#pragma unroll
    for (int k = 0; k < BK; ++k) {
      acc_t a[TM], b[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) {
        const auto v = load_vec<4>(&shared_a[slot][k][i / 4 * (TY * 4) + ty * 4]);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i + e] = v.v[e];
      }
#pragma unroll
      for (int j = 0; j < TN; j += 4) {
        const auto v = load_vec<4>(&shared_b[slot][k][j / 4 * (TX * 4) + tx * 4]);
#pragma unroll
        for (int e = 0; e < 4; ++e) b[j + e] = v.v[e];
      }
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) acc[i][j] += a[i] * b[j];
    }
    if (tile + 1 < end) stage(slot ^ 1);
    __syncthreads();
  }
  launch_dependents();

  // Rows of VEC elements along what is contiguous in the output.
#pragma unroll
  for (int i = 0; i < TM; i += LAST ? 1 : VEC) {
    const index_t m = row0 + i / 4 * (TY * 4) + ty * 4 + i % 4;
#pragma unroll
    for (int j = 0; j < TN; j += LAST ? VEC : 1) {
      const int n = column_tile * BN + j / 4 * (TX * 4) + tx * 4 + j % 4;
      if (m < M && n < NG) {
        acc_t sum[VEC];
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] = LAST ? acc[i][j + (LAST ? e : 0)] : acc[i + (LAST ? 0 : e)][j];
        const int filter = group * NG + n;
        const index_t pixels = OD * OH * OW;
        const index_t to = LAST ? m * FILTERS + filter : (m / pixels * FILTERS + filter) * pixels + m % pixels;
#if SPLIT > 1
        Vec<acc_t, VEC> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) v.v[e] = sum[e];
        store_vec<VEC>(partial + (long long)split * M * FILTERS + to, v);
#else
        EPILOGUE.store<VEC>(sum, to);
#endif
      }
    }
  }
}
