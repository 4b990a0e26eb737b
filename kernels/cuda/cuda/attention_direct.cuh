// attention.direct: softmax(scale * q * k^T + mask) * v for few queries, whose time is one of waiting. A block takes
// 16 * TILES queries of a head; each of GROUPS warps takes KEYS of every GROUPS * KEYS keys. All operands go straight into
// registers: the products' inner dimensions may be in any order that both sides agree on, so each lane reads 16 bytes of a
// row where the tensor cores' fragments would have it read 4 times 4. The warps meet once, over their sums.
//   scores: step 2i and 2i + 1 of 16 take a row's chunks 4i to 4i + 3, lane c of four has chunk 4i + c
//   values: column n of block b is dimension 8n + b, so that lane n has chunk n of a row

constexpr int THREADS = 32 * GROUPS;
constexpr int QUERIES = 16 * TILES;
constexpr int PITCH = DIM_V + 16;   // floats in a row of sums; 16 more keep stores free of conflicts
static_assert(DIM % 32 == 0 && DIM_V % 64 == 0 && KEYS % 16 == 0, "whole fragments");

template <int N> struct Number {
  static constexpr int value = N;
};

DEVICE uint4 load_chunk(const element_t* from, bool valid) {
  return valid ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
}

// Element b of chunks `x` and `y`, beside each other.
template <int B> DEVICE uint32_t pair(const uint4& x, const uint4& y) {
  const uint32_t a = B < 2 ? x.x : B < 4 ? x.y : B < 6 ? x.z : x.w, b = B < 2 ? y.x : B < 4 ? y.y : B < 6 ? y.z : y.w;
  return __byte_perm(a, b, B % 2 ? 0x7632 : 0x5410);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL_NAME(const element_t* q, const element_t* k, const element_t* v MASK_PARAMS,
                element_t* out SYMBOL_PARAMS PREFETCH_PARAMS) {
  PREFETCH(threadIdx.x == 0);
  extern __shared__ __align__(16) float sums[];   // [GROUPS][QUERIES][PITCH], then each row's maximum and sum of powers
  float* const states = sums + GROUPS * QUERIES * PITCH;
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const index_t tiles_q = (SIZE_Q + QUERIES - 1) / QUERIES;
  const index_t q0 = blockIdx.x % tiles_q * QUERIES, head = blockIdx.x / tiles_q % HEADS, batch = blockIdx.x / tiles_q / HEADS;
  const index_t head_kv = head * KV_HEADS / HEADS;
  const index_t ahead = SIZE_K - SIZE_Q;   // a causal mask lets query i see keys up to i + ahead
  index_t seen = SIZE_K;
  if (CAUSAL) {
    const index_t most = (q0 + QUERIES < SIZE_Q ? q0 + QUERIES : SIZE_Q) + ahead;
    seen = most < seen ? most : seen;
  }
  const element_t* const from_q = q + Q_OFFSET + batch * Q_BATCH + head * Q_HEAD + (q0 + g) * Q_ROW + c * 8;
  const element_t* const from_k = k + K_OFFSET + batch * K_BATCH + head_kv * K_HEAD + g * K_ROW + c * 8;
  const element_t* const from_v = v + V_OFFSET + batch * V_BATCH + head_kv * V_HEAD + c * 2 * V_ROW + g * 8;
  uint4 held_q[TILES * 2][DIM / 32];
  float o[TILES][DIM_V / 8][4] = {};
  float most[TILES][2], sum[TILES][2] = {};
#pragma unroll
  for (int m = 0; m < TILES * 2; ++m) most[m / 2][m % 2] = -INFINITY;

  dependency_wait();
#pragma unroll
  for (int m = 0; m < TILES * 2; ++m)
#pragma unroll
    for (int i = 0; i < DIM / 32; ++i) held_q[m][i] = load_chunk(from_q + m * 8 * Q_ROW + i * 32, q0 + g + m * 8 < SIZE_Q);
#pragma unroll 1
  for (index_t first = group * KEYS; first < seen; first += GROUPS * KEYS) {
    uint4 held_k[KEYS / 8][DIM / 32], held_v[KEYS / 16][4][DIM_V / 64];
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int i = 0; i < DIM / 32; ++i) held_k[j][i] = load_chunk(from_k + (first + j * 8) * K_ROW + i * 32, first + j * 8 + g < seen);
#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int i = 0; i < DIM_V / 64; ++i) {
          const int row = j * 16 + r / 2 * 8 + r % 2;
          held_v[j][r][i] = load_chunk(from_v + (first + row) * V_ROW + i * 64, first + row + c * 2 < seen);
        }
#ifdef MASK
    // Asked for before the scores are there.
    float add[MASK_BY_KEY ? 1 : TILES * 2][KEYS / 8][2];
#pragma unroll
    for (int m = 0; m < (MASK_BY_KEY ? 1 : TILES * 2); ++m)
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const index_t x = first + j * 8 + c * 2 + e, y = q0 + g + m * 8;
          add[m][j][e] = 0.f;
          if (x < SIZE_K && (MASK_BY_KEY || y < SIZE_Q))
            add[m][j][e] = mask_value(mask[MASK_OFFSET + batch * MASK_BATCH + head * MASK_HEAD + y * MASK_ROW + x * MASK_COLUMN]);
        }
#endif
    if (EARLY) launch_dependents();

    float s[TILES][KEYS / 8][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 32; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
          const uint4 &a = held_q[m * 2][i], &b = held_q[m * 2 + 1][i];
          const uint32_t left[4] = {half ? a.z : a.x, half ? b.z : b.x, half ? a.w : a.y, half ? b.w : b.y};
#pragma unroll
          for (int j = 0; j < KEYS / 8; ++j) {
            const uint4& x = held_k[j][i];
            mma_m16n8k16<element_t>(s[m][j], left, {half ? x.z : x.x, half ? x.w : x.y});
          }
        }

#pragma unroll
    for (int m = 0; m < TILES; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const index_t y = q0 + m * 16 + h * 8 + g;
        const index_t end = CAUSAL && y + ahead + 1 < SIZE_K ? y + ahead + 1 : SIZE_K;
        const int left = (int)(end - first) - c * 2;
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][j][h * 2 + e];
            x *= SCALE;
#ifdef MASK
            x += add[MASK_BY_KEY ? 0 : m * 2 + h][j][e];
#endif
            if (j * 8 + e >= left) x = -INFINITY;
            top = fmaxf(top, x);
          }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(top, most[m][h]);
        const float base = top == -INFINITY ? 0.f : top, shrink = exp2_fast(most[m][h] - base);
        most[m][h] = top;
        sum[m][h] *= shrink;
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][j][h * 2 + e];
            x = exp2_fast(x - base);
            sum[m][h] += x;
          }
        if (!ONCE) {
#pragma unroll
          for (int n = 0; n < DIM_V / 8; ++n) o[m][n][h * 2] *= shrink, o[m][n][h * 2 + 1] *= shrink;
        }
      }

#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j) {
      uint32_t p[TILES][4];
#pragma unroll
      for (int m = 0; m < TILES; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[m][e] = pack2<element_t>(s[m][j * 2 + e / 2][e % 2 * 2], s[m][j * 2 + e / 2][e % 2 * 2 + 1]);
#pragma unroll
      for (int i = 0; i < DIM_V / 64; ++i) {
        const auto add_block = [&](auto block) {
          constexpr int B = decltype(block)::value;
          const uint32_t right[2] = {pair<B>(held_v[j][0][i], held_v[j][1][i]), pair<B>(held_v[j][2][i], held_v[j][3][i])};
#pragma unroll
          for (int m = 0; m < TILES; ++m) mma_m16n8k16<element_t>(o[m][i * 8 + B], p[m], right);
        };
        add_block(Number<0>());
        add_block(Number<1>());
        add_block(Number<2>());
        add_block(Number<3>());
        add_block(Number<4>());
        add_block(Number<5>());
        add_block(Number<6>());
        add_block(Number<7>());
      }
    }
    if (ONCE) break;
  }
  if (!EARLY) launch_dependents();

  // Lane c of four has dimensions 16c to 16c + 15 of every 64: a row's float4s lie in the order [64 dimensions][4][c].
#pragma unroll
  for (int m = 0; m < TILES; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = group * QUERIES + m * 16 + h * 8 + g;
      float* const to = sums + row * PITCH + c * 4;
#pragma unroll
      for (int i = 0; i < DIM_V / 64; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const auto& from = o[m];
          const int n = i * 8 + e % 2 * 4, at = h * 2 + e / 2;
          *reinterpret_cast<float4*>(to + i * 64 + e * 16) = make_float4(from[n][at], from[n + 1][at], from[n + 2][at], from[n + 3][at]);
        }
      sum[m][h] += __shfl_xor_sync(0xffffffffu, sum[m][h], 1);
      sum[m][h] += __shfl_xor_sync(0xffffffffu, sum[m][h], 2);
      if (c == 0) *reinterpret_cast<float2*>(states + row * 2) = make_float2(most[m][h], sum[m][h]);
    }
  __syncthreads();
#pragma unroll
  for (int item = threadIdx.x; item < QUERIES * (DIM_V / 4); item += THREADS) {
    const int row = item / (DIM_V / 4), quarter = item % (DIM_V / 4);
    const index_t y = q0 + row;
    if (y >= SIZE_Q) break;
    float2 state[GROUPS];
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < GROUPS; ++w) {
      state[w] = *reinterpret_cast<const float2*>(states + (w * QUERIES + row) * 2);
      top = fmaxf(top, state[w].x);
    }
    // Dimensions 4 * quarter to 4 * quarter + 3.
    const float* const from = sums + row * PITCH + quarter / 16 * 64 + (quarter % 4 * 4 + quarter / 4 % 4) * 4;
    float total = 0.f, x[4] = {};
#pragma unroll
    for (int w = 0; w < GROUPS; ++w) {
      const float weight = top == -INFINITY ? 0.f : exp2_fast(state[w].x - top);
      const float4 part = *reinterpret_cast<const float4*>(from + w * QUERIES * PITCH);
      total += state[w].y * weight;
      x[0] += part.x * weight, x[1] += part.y * weight, x[2] += part.z * weight, x[3] += part.w * weight;
    }
    const float factor = total == 0.f ? 0.f : 1.f / total;
    const index_t at = OUT_HEADS_INNER ? (batch * SIZE_Q + y) * HEADS + head : (batch * HEADS + head) * SIZE_Q + y;
    *reinterpret_cast<uint2*>(out + at * DIM_V + quarter * 4) =
        make_uint2(pack2<element_t>(x[0] * factor, x[1] * factor), pack2<element_t>(x[2] * factor, x[3] * factor));
  }
}
