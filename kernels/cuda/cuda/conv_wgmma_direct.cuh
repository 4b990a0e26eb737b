// Results straight from registers, and what the epilogue reads straight into them.

#define RESULT_PARAMS
#define RESULT_NAMES
// A warp's rows (16 of every 64) of a tile, a slab at a time, from registers to memory. What AHEAD slabs read besides is under
// way at a time.
struct Slab {
  static constexpr int COLUMNS = BN / 32, COUNT = MT * COLUMNS, PARTS = 8 / WIDTH;
  index_t to[2];
  typename Epilogue::template Reads<WIDTH> reads[2][PARTS];

  DEVICE void ask(int slab, index_t row0, int column0, const Epilogue& epilogue SYMBOL_PARAMS) {
    const int lane = threadIdx.x % 32;
    const int n = column0 + slab % COLUMNS * 32 + lane % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const index_t m = row0 + slab / COLUMNS * 64 + half * 8 + lane / 4;
      to[half] = m < M && (NG % BN == 0 || RUNS || n < NG) ? m * FILTERS + n : -1;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        const int at = n + p * WIDTH, column = NG % BN == 0 || at < NG ? at : 0;
        if (BY_COLUMN && half > 0)
          reads[half][p] = reads[0][p];
        else
          reads[half][p] = epilogue.template read<WIDTH>(to[half] >= 0 && column == at ? to[half] + p * WIDTH : 0, column);
      }
    }
  }

  DEVICE void finish(const float (&acc)[MT][BN / 2], int slab, int column0, Run& run,
                     const typename Epilogue::Row (&rows)[2], const Epilogue& epilogue) const {
    const int n = column0 + slab % COLUMNS * 32 + threadIdx.x % 4 * 8;
#if RUNS
    Vec<result_t, 8> x[2];
#endif
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        acc_t sum[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) sum[i] = sum_at(acc[slab / COLUMNS], slab % COLUMNS, half, p * WIDTH + i);
#if RUNS
        if (n + p * WIDTH < NG) {
          const auto some = epilogue.template result<WIDTH>(sum, to[half] + p * WIDTH, reads[half][p], rows[half]);
#pragma unroll
          for (int i = 0; i < WIDTH; ++i) x[half].v[p * WIDTH + i] = some.v[i];
        }
#else
        // Rows that do not exist are finished with the others: what goes by columns is widened once for both then.
        if (PARTS == 1 || n + p * WIDTH < NG)
          epilogue.template store<WIDTH>(sum, p == 0 || to[half] >= 0 ? to[half] + p * WIDTH : -1, reads[half][p],
                                         rows[half]);
#endif
      }
    }
#if RUNS
    store_runs<COLUMNS>(epilogue.out, run, x, to, slab % COLUMNS, NG - (n - (int)threadIdx.x % 4 * 8));
#endif
  }
};

struct Results {
  Slab slabs[AHEAD];
  KnownRows known;

  DEVICE Results(unsigned char*, uint32_t) {}
  DEVICE void begin(index_t SYMBOL_PARAMS) {}
  // What the epilogue reads first is under way while this tile is multiplied.
  DEVICE void ask(index_t row0, int column0, const Epilogue& epilogue SYMBOL_PARAMS) {
    const index_t warp_row0 = row0 + threadIdx.x / 32 % 4 * 16;
#pragma unroll
    for (int s = 0; s < AHEAD && s < Slab::COUNT; ++s) slabs[s].ask(s, warp_row0, column0, epilogue SYMBOL_NAMES);
    known.ask(warp_row0, epilogue SYMBOL_NAMES);
  }
  DEVICE void finish(const float (&acc)[MT][BN / 2], index_t row0, int column0, index_t, const Epilogue& epilogue SYMBOL_PARAMS) {
    const index_t warp_row0 = row0 + threadIdx.x / 32 % 4 * 16;
    Run run;
    known.come(epilogue);
#pragma unroll
    for (int s = 0; s < Slab::COUNT; ++s) {
      slabs[s % AHEAD].finish(acc, s, column0, run, known.rows[s / Slab::COLUMNS], epilogue);
      if (s + AHEAD < Slab::COUNT) slabs[s % AHEAD].ask(s + AHEAD, warp_row0, column0, epilogue SYMBOL_NAMES);
    }
  }
  DEVICE void end() const {}
};
