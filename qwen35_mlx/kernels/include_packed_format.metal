// Included by other bodies: the layout of packed rows of BITS bits, quantised in affine mode:
// value = scale * q + bias.
//
// A chunk is what a thread reads of a row at once; no chunk spans two groups. It is four words, one
// wide load, where words hold whole values. Else, at 3, 5 and 6 bits, a row is a stream of bits, the
// lowest first, and a chunk is 32 values in BITS words. A chunk adds
// scale * (x . q) + bias * sum(x) to a dot product: see include_packed_dot.metal.

constexpr bool STREAM = 32 % BITS != 0;
constexpr int CHUNK_WORDS = STREAM ? BITS : 4;
constexpr int CHUNK = CHUNK_WORDS * 32 / BITS;  // values
constexpr uint32_t VALUE_MASK = (1u << BITS) - 1u;
// The bits of 2^23 as a float. An integer q < 2^23 in its low bits makes the float 2^23 + q, from
// which 2^23 is subtracted: eight times as fast on a GPU as converting q.
constexpr uint32_t TWO_TO_23 = 0x4B000000u;
