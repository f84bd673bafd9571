// Included by other bodies: the four values of `word`, 8 bits each, as x, y, z, w.
//
// value = scale * q + bias. The bits of q, set in those of 2^23 (two_to_23), make the float 2^23 + q,
// so that q needs no conversion; in the upper byte of a half word q counts 256.

const float offset = as_type<float>(two_to_23);
const uint32_t upper_half = word >> 16;
const float upper_scale = scale * (1.0f / 256.0f);
const float x = scale * (as_type<float>(two_to_23 | (word & 0xFFu)) - offset) + bias;
const float y = upper_scale * (as_type<float>(two_to_23 | (word & 0xFF00u)) - offset) + bias;
const float z = scale * (as_type<float>(two_to_23 | (upper_half & 0xFFu)) - offset) + bias;
const float w = upper_scale * (as_type<float>(two_to_23 | (upper_half & 0xFF00u)) - offset) + bias;
