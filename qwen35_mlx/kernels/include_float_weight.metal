// Included by other bodies: value n of a chunk of row r, in a format that is not affine, goes to
// `weight`; see FACTOR. Its place is that of include_value_place.metal.

const uint32_t packed = words[r][word];
if (MODE == 3) weight = as_type<float>(down > 0 ? packed & 0xFFFF0000u : packed << 16);
if (MODE == 5) weight = as_type<float>(packed);
if (FLOATS || MODE == 4) {
  // Both half words become half floats at once, which two values share.
  uint32_t halves = packed;
  if (FLOATS) {
    const int left = HALF_PLACE - shift;
    const uint32_t moved = left > 0 ? packed << left : packed >> -left;
    halves = (moved & HALF_MASK) | ((packed << (16 - BITS - shift)) & 0x80008000u);
  }
  weight = static_cast<float>(as_type<half>(static_cast<ushort>(halves >> down)));
}
