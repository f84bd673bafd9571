// Included by decode_attention_partial_8bit.metal: key j of a tile and its value, `rows` rows after
// those that include_find_8bit_key.metal has found.

if (QUADS == 2) {
  // Aligned, since allocations are and a row is a multiple of 8 bytes.
  const uint2 k_pair = *reinterpret_cast<const device uint2*>(k_source + rows * ROW_WORDS);
  const uint2 v_pair = *reinterpret_cast<const device uint2*>(v_source + rows * ROW_WORDS);
  k_words[j * QUADS] = k_pair.x;
  k_words[j * QUADS + QUADS - 1] = k_pair.y;
  v_words[j * QUADS] = v_pair.x;
  v_words[j * QUADS + QUADS - 1] = v_pair.y;
} else {
  k_words[j * QUADS] = k_source[rows * ROW_WORDS];
  v_words[j * QUADS] = v_source[rows * ROW_WORDS];
}
k_scale[j] = static_cast<float>(k_scale_source[rows * ROW_GROUPS]);
k_bias[j] = static_cast<float>(k_bias_source[rows * ROW_GROUPS]);
v_scale[j] = static_cast<float>(v_scale_source[rows * ROW_GROUPS]);
v_bias[j] = static_cast<float>(v_bias_source[rows * ROW_GROUPS]);
