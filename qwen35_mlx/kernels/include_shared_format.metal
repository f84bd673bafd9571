// Included by other bodies: the format of the shared expert's rows, and their scales and biases.

constexpr int MODE = SHARED_MODE;
constexpr int BITS = SHARED_BITS;
constexpr int GS = SHARED_GS;
constexpr int CHUNK = SHARED_CHUNK;
#include "include_packed_format.metal"
auto scale_row = reinterpret_cast<const device SharedScaleT*>(scale_bytes);
auto bias_row = reinterpret_cast<const device SharedScaleT*>(bias_bytes);
