// Included by other bodies: the layout of packed rows of BITS bits, quantised in affine mode:
// value = scale * q + bias.
//
// A chunk is four words of a row, one wide load of a thread; no chunk spans two groups. It adds
// scale * (x . q) + bias * sum(x) to a dot product: see include_packed_dot.metal.

constexpr int VALUES_PER_WORD = 32 / BITS;
constexpr int CHUNK = 4 * VALUES_PER_WORD;            // values
constexpr int VALUES_PER_HALF = VALUES_PER_WORD / 2;  // of a word
constexpr uint32_t VALUE_MASK = (1u << BITS) - 1u;
// The bits of 2^23 as a float. An integer q < 2^23 in its low bits makes the float 2^23 + q, from
// which 2^23 is subtracted: eight times as fast on a GPU as converting q.
constexpr uint32_t TWO_TO_23 = 0x4B000000u;
