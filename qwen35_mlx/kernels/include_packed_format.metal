// Included by other bodies: the layout of rows in the format that MODE, BITS (of a value) and GS
// (values of a group) say. A group of values shares a scale.
//
// MODE 0     affine: scale * q + bias, q of 2 to 6 or 8 bits
//      1     mxfp4, mxfp8: floats of 4 bits (e2m1) or 8 (e4m3) times a power of two (e8m0)
//      2     nvfp4: floats of 4 bits (e2m1) times a scale of 8 (e4m3)
//      3-5   unquantised: bfloat16, float16, float32. No groups; GS is a multiple of CHUNK
//
// A chunk, CHUNK values, is what a thread reads of a row at once. It is four words, one wide load,
// where words hold whole values. Else, at 3, 5 and 6 bits, a row is a stream of bits, the lowest
// first, and a chunk is 32 values in BITS words. A group adds scale * (x . q) + bias * sum(x) to a
// dot product: see include_packed_dot.metal.

constexpr bool AFFINE = MODE == 0;
constexpr bool FLOATS = MODE == 1 || MODE == 2;  // of 4 or 8 bits
constexpr bool PLAIN = MODE > 2;  // unquantised
constexpr bool STREAM = 32 % BITS != 0;
constexpr int CHUNK_WORDS = CHUNK * BITS / 32;
constexpr int CHUNK_GROUPS = CHUNK > GS ? CHUNK / GS : 1;
constexpr uint32_t VALUE_MASK = (1u << BITS % 32) - 1u;  // of affine formats
// The bits of 2^23 as a float. An integer q < 2^23 in its low bits makes the float 2^23 + q, from
// which 2^23 is subtracted: eight times as fast on a GPU as converting q.
constexpr uint32_t TWO_TO_23 = 0x4B000000u;
// A float of 4 or 8 bits is read as the half float of the same exponent and mantissa bits, also if
// it is subnormal. The exponents' biases are 1, 7 and 15: it is too small by 2^14 or 2^8. The NaN of
// 8 bits, which no quantiser writes, is read as 480.
constexpr int HALF_PLACE = BITS == 4 ? 9 : 7;  // of the lowest of those bits, in the half float
constexpr uint32_t HALF_MASK = BITS == 4 ? 0x0E000E00u : 0x3F803F80u;  // they, in two half floats
// What a dot product is too small by, for the values and for the scales.
constexpr float FACTOR =
    MODE == 2 ? 4194304.0f : MODE == 1 ? (BITS == 4 ? 16384.0f : 256.0f) : 1.0f;
