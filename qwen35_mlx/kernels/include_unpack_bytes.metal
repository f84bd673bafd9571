// Included by other bodies: the four values of `word`, 8 bits each, as x, y, z, w.
//
// value = scale * q + bias. The bits of 2^23 + q are those of 2^23 and of q, so that q needs no
// conversion; an upper byte of a half word counts 256 there. See include_packed_format.metal.

constexpr uint32_t TWO_TO_23 = 0x4B000000u;
const uint32_t upper_half = word >> 16;
const float step_of_256 = scale * (1.0f / 256.0f);
const float x = scale
    * (as_type<float>(TWO_TO_23 | (word & 0xFFu)) - as_type<float>(TWO_TO_23)) + bias;
const float y = step_of_256
    * (as_type<float>(TWO_TO_23 | (word & 0xFF00u)) - as_type<float>(TWO_TO_23)) + bias;
const float z = scale
    * (as_type<float>(TWO_TO_23 | (upper_half & 0xFFu)) - as_type<float>(TWO_TO_23)) + bias;
const float w = step_of_256
    * (as_type<float>(TWO_TO_23 | (upper_half & 0xFF00u)) - as_type<float>(TWO_TO_23)) + bias;
