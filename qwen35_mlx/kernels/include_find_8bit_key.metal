// Included by decode_attention_partial_8bit.metal: where `key` and its value lie.

const bool in_tail = key >= prefix_keys;
const uint32_t row = in_tail ? first_tail_row + static_cast<uint32_t>(key - prefix_keys)
                             : first_row + static_cast<uint32_t>(key);
const uint32_t first_word = row * ROW_WORDS + lane_word;
const uint32_t group = row * ROW_GROUPS + lane_group;
auto k_source = (in_tail ? k_tail : k) + first_word;
auto v_source = (in_tail ? v_tail : v) + first_word;
auto k_scale_source = (in_tail ? k_tail_scales : k_scales) + group;
auto k_bias_source = (in_tail ? k_tail_biases : k_biases) + group;
auto v_scale_source = (in_tail ? v_tail_scales : v_scales) + group;
auto v_bias_source = (in_tail ? v_tail_biases : v_biases) + group;
