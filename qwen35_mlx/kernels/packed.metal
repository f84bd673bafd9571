// A piece of other bodies: how rows of BITS are read. Weights are affine: value = scale * q + bias.
//
// A run is four words of a row, which a thread reads at once; no run is of two groups. Its share of
// a dot product is scale * (x . q) + bias * sum(x): see run_dot.metal.

constexpr int PER = 32 / BITS;            // values in a word
constexpr int RUN = 4 * PER;
constexpr int HALF = PER / 2;             // values in half a word
constexpr uint32_t MASK = (1u << BITS) - 1u;
// 2^23: an integer below, put into its last bits, makes a float that is larger by just that integer.
// GPUs convert integers to floats at an eighth of the speed of this.
constexpr uint32_t MAGIC = 0x4B000000u;
