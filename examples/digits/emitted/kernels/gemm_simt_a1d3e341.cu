// f32 matrix product, gemm.simt/1 m32 n32 k16 tm4 tn4 splitk1

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
typedef float element_t;
constexpr index_t SIZE_BATCH = 1;
#define SIZE_M sym_batch
constexpr index_t SIZE_N = 10;
constexpr index_t SIZE_K = 64;
constexpr index_t A_BATCH = 0;
constexpr index_t A_ROW = 64;
constexpr index_t A_COLUMN = 1;
constexpr index_t B_BATCH = 0;
constexpr index_t B_ROW = 1;
constexpr index_t B_COLUMN = 64;
#define SYMBOL_PARAMS , int sym_batch
constexpr int SPLITS = 1;
constexpr bool FOLD = false;
constexpr bool ALL_M = false;
constexpr bool ALL_N = false;
constexpr bool ALL_K = true;
constexpr bool A_ALONG_K = true;
constexpr bool B_ALONG_K = true;
// epilogue: (f32, f32) { %2 = add %0 %1 } -> %2:f32
typedef float acc_t;
struct Epilogue {
  const float* e0;
  float* out;
  index_t sym_batch;

  // Elements i to i + V - 1 of the output, from their accumulators.
  template <int V> DEVICE void store(const acc_t (&acc)[V], index_t i) const {
    const index_t c1 = i % 10;
    const auto v1 = load_row<V, 16>(e0 + c1);
    Vec<float, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x0 = acc[j];
      const float x1 = widen(v1.v[j]);
      const float r2 = x0 + x1;
      result.v[j] = narrow<float>(r2);
    }
    store_vec<V>(out + i, result);
  }
};
#define EPILOGUE_PARAMS , const float* e0, float* out
#define EPILOGUE Epilogue{e0, out, sym_batch}
#define RESULT_PARAMS EPILOGUE_PARAMS
#define RESULT EPILOGUE
constexpr int ALIGN_A = 4;
constexpr int ALIGN_B = 4;
constexpr int BLOCK_M = 32;
constexpr int BLOCK_N = 32;
constexpr int BLOCK_K = 16;
constexpr int THREAD_M = 4;
constexpr int THREAD_N = 4;
constexpr int VECTOR = 2;
// gemm.simt: a matrix product on the ordinary cores, for any element type and any strides. A block computes BLOCK_M x BLOCK_N, each
// thread THREAD_M x THREAD_N of it in quads of rows and columns; tiles of BLOCK_K go through registers into two buffers in
// turn, widened to acc_t and with k as the outer dimension.

constexpr int ACROSS = BLOCK_N / THREAD_N;
constexpr int THREADS = BLOCK_M / THREAD_M * ACROSS;
// Blocks on a multiprocessor, that is registers of a thread: left alone the compiler spills a few to squeeze in one more. An
// 8 x 8 tile fits in 128 registers only where nothing is checked.
constexpr bool CHECKED = !(ALL_M && ALL_N && ALL_K && ALIGN_A == 4 && ALIGN_B == 4);
constexpr bool LARGE = THREAD_M * THREAD_N * sizeof(acc_t) >= 256;
constexpr int RESIDENT = sizeof(acc_t) == 8 ? 256 : LARGE && (CHECKED || BLOCK_K > 8 || THREADS < 256) ? 384 : 512;
constexpr int BLOCKS = THREADS > RESIDENT ? 1 : RESIDENT / THREADS;
static_assert(THREAD_M % 4 == 0 && THREAD_N % 4 == 0, "threads hold quads");

// BLOCK_K x EXTENT of an operand. V elements are contiguous and aligned, along k or along the other dimension.
template <int EXTENT, bool ALONG_K, int V, bool ALL_K, bool ALL> struct Operand {
  static constexpr int PITCH = EXTENT + 16 / sizeof(acc_t);
  static constexpr int VECTORS = BLOCK_K * EXTENT / V;
  static constexpr int EACH = (VECTORS + THREADS - 1) / THREADS;
  Vec<element_t, V> held[EACH];

  // `k` and `limit` are what is left of k and of the other dimension.
  DEVICE void load(const element_t* from, index_t stride_k, index_t stride, index_t k, index_t limit) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int id = threadIdx.x + i * THREADS;
      const int at_k = ALONG_K ? id % (BLOCK_K / V) * V : id / (EXTENT / V), at = ALONG_K ? id / (BLOCK_K / V) : id % (EXTENT / V) * V;
      held[i] = Vec<element_t, V>{};
      if ((VECTORS % THREADS == 0 || id < VECTORS) && (ALL_K || at_k < k) && (ALL || at < limit))
        held[i] = load_vec<V>(from + at_k * stride_k + at * stride);
    }
  }
  DEVICE void store(acc_t* tile) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int id = threadIdx.x + i * THREADS;
      if (VECTORS % THREADS != 0 && id >= VECTORS) break;
      if constexpr (ALONG_K) {
        const int at_k = id % (BLOCK_K / V) * V, at = id / (BLOCK_K / V);
#pragma unroll
        for (int j = 0; j < V; ++j) tile[(at_k + j) * PITCH + at] = widen(held[i].v[j]);
      } else {
        Vec<acc_t, V> wide;
#pragma unroll
        for (int j = 0; j < V; ++j) wide.v[j] = widen(held[i].v[j]);
        store_vec(tile + id / (EXTENT / V) * PITCH + id % (EXTENT / V) * V, wide);
      }
    }
  }
};
typedef Operand<BLOCK_M, A_ALONG_K, ALIGN_A, ALL_K, ALL_M> OperandA;
typedef Operand<BLOCK_N, B_ALONG_K, ALIGN_B, ALL_K, ALL_N> OperandB;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    gemm_simt_a1d3e341(const element_t* a, const element_t* b RESULT_PARAMS SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  __shared__ __align__(16) acc_t tiles_a[2][BLOCK_K * OperandA::PITCH];
  __shared__ __align__(16) acc_t tiles_b[2][BLOCK_K * OperandB::PITCH];
  constexpr int RASTER = 8;
  const index_t tiles_m = (SIZE_M + BLOCK_M - 1) / BLOCK_M, tiles_n = (SIZE_N + BLOCK_N - 1) / BLOCK_N;
  index_t block = blockIdx.x, z = blockIdx.z;
  if (FOLD) z = block / (tiles_m * tiles_n), block -= z * (tiles_m * tiles_n);
  const int split = SPLITS > 1 ? z % SPLITS : 0;
  z /= SPLITS;
  const index_t band = tiles_m <= RASTER ? 0 : block / (RASTER * tiles_n) * RASTER;
  const index_t height = tiles_m <= RASTER ? tiles_m : tiles_m - band < RASTER ? tiles_m - band : RASTER;
  block -= band * tiles_n;
  const index_t m0 = (band + block % height) * BLOCK_M, n0 = block / height * BLOCK_N;

  const index_t tiles_k = (SIZE_K + BLOCK_K - 1) / BLOCK_K, share = (tiles_k + SPLITS - 1) / SPLITS;
  const index_t first = split * share, count = tiles_k - first < share ? tiles_k - first : share;
  const element_t* from_a = a + z * A_BATCH + m0 * A_ROW;
  const element_t* from_b = b + z * B_BATCH + n0 * B_COLUMN;
  const int row = threadIdx.x / ACROSS * 4, column = threadIdx.x % ACROSS * 4;
  acc_t acc[THREAD_M][THREAD_N] = {};
  OperandA operand_a;
  OperandB operand_b;
  auto load = [&](index_t tile) {
    const index_t k = (first + tile) * BLOCK_K;
    operand_a.load(from_a + k * A_COLUMN, A_COLUMN, A_ROW, SIZE_K - k, SIZE_M - m0);
    operand_b.load(from_b + k * B_ROW, B_ROW, B_COLUMN, SIZE_K - k, SIZE_N - n0);
  };

  dependency_wait();
  if (count > 0) {
    load(0);
    operand_a.store(tiles_a[0]);
    operand_b.store(tiles_b[0]);
  }
  __syncthreads();
#pragma unroll 1
  for (index_t t = 0; t < count; ++t) {
    if (t + 1 < count) load(t + 1);
    const acc_t* tile_a = tiles_a[t % 2];
    const acc_t* tile_b = tiles_b[t % 2];
#pragma unroll
    for (int k = 0; k < BLOCK_K; ++k) {
      Vec<acc_t, 4> x[THREAD_M / 4], y[THREAD_N / 4];
#pragma unroll
      for (int i = 0; i < THREAD_M / 4; ++i) x[i] = load_vec<4>(tile_a + k * OperandA::PITCH + i * (BLOCK_M / (THREAD_M / 4)) + row);
#pragma unroll
      for (int j = 0; j < THREAD_N / 4; ++j) y[j] = load_vec<4>(tile_b + k * OperandB::PITCH + j * (BLOCK_N / (THREAD_N / 4)) + column);
#pragma unroll
      for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j) acc[i][j] += x[i / 4].v[i % 4] * y[j / 4].v[j % 4];
    }
    if (t + 1 < count) {
      operand_a.store(tiles_a[(t + 1) % 2]);
      operand_b.store(tiles_b[(t + 1) % 2]);
    }
    __syncthreads();
  }
  launch_dependents();

#pragma unroll
  for (int i = 0; i < THREAD_M; ++i) {
    const index_t m = m0 + i / 4 * (BLOCK_M / (THREAD_M / 4)) + row + i % 4;
#pragma unroll
    for (int j = 0; j < THREAD_N; j += VECTOR) {
      const index_t n = n0 + j / 4 * (BLOCK_N / (THREAD_N / 4)) + column + j % 4;
      if ((!ALL_M && m >= SIZE_M) || (!ALL_N && n >= SIZE_N)) continue;
      acc_t sum[VECTOR];
#pragma unroll
      for (int v = 0; v < VECTOR; ++v) sum[v] = acc[i][j + v];
      RESULT.template store<VECTOR>(sum, ((split * SIZE_BATCH + z) * SIZE_M + m) * SIZE_N + n);
    }
  }
}
