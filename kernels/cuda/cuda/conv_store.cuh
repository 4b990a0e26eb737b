// What becomes of a depthwise convolution's results: they are stored.

#define RESULTS_PARAMS
#define RESULTS
struct Results {
  DEVICE void begin(int) {}
  template <int W, class Reads>
  DEVICE void store(const Epilogue& epilogue, const acc_t (&acc)[W], index_t i, const Reads& reads) {
    epilogue.store<W>(acc, i, reads);
  }
  DEVICE void end(int, int, index_t) {}
};
