// Included by other bodies: the scales of a chunk's groups, from group `group` of scale_row and
// bias_row on, go to scale[r] and bias[r]; see FACTOR.

#pragma unroll
for (int g = 0; g < CHUNK_GROUPS; ++g) {
  scale[r][g] = 1.0f;
  bias[r][g] = 0.0f;
  if (AFFINE) {
    scale[r][g] = static_cast<float>(scale_row[group + g]);
    bias[r][g] = static_cast<float>(bias_row[group + g]);
  }
  if (FLOATS) {
    const uint32_t code = reinterpret_cast<const device uint8_t*>(scale_row)[group + g];
    if (MODE == 1) {
      scale[r][g] = as_type<float>(code << 23);  // 2^(code - 127)
    } else {
      const uint32_t bits = (code & 0x7Fu) << 7 | (code & 0x80u) << 8;
      scale[r][g] = static_cast<float>(as_type<half>(static_cast<ushort>(bits)));
    }
  }
}
