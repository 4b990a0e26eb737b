// The input elements that an output element is made of, along one dimension.
struct Taps {
  index_t at[TAPS];
  float weight[TAPS];
};

DEVICE index_t clamped(float i, index_t n) { return min((index_t)max(i, 0.0f), n - 1); }

// Where output o lies in the input.
DEVICE float origin(float o, float scale, float input, float output) { return ORIGIN; }

DEVICE Taps taps_around(float at, index_t n) {
  CHOOSE
}

DEVICE Taps taps_of(index_t o, float scale, index_t input, index_t output) {
  return taps_around(origin((float)o, scale, (float)input, (float)output), input);
}

// A weight of zero leaves even infinities out.
DEVICE void add(acc_t& acc, acc_t weight, acc_t x) {
  if (weight != 0) acc += weight * x;
}
