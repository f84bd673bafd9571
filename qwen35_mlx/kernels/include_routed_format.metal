// Included by other bodies: the format of the routed experts' rows, and their scales and biases.

constexpr int MODE = ROUTED_MODE;
constexpr int BITS = ROUTED_BITS;
constexpr int GS = ROUTED_GS;
constexpr int CHUNK = ROUTED_CHUNK;
#include "include_packed_format.metal"
auto scale_row = reinterpret_cast<const device RoutedScaleT*>(scale_bytes);
auto bias_row = reinterpret_cast<const device RoutedScaleT*>(bias_bytes);
