// Included by other bodies: where the rows of a routed expert or of the shared one are. Pointers to
// words and bytes, since arrays of several formats have no type in common.

auto source = reinterpret_cast<const device uint32_t*>(w);
auto scale_bytes = reinterpret_cast<const device uint8_t*>(scales);
auto bias_bytes = reinterpret_cast<const device uint8_t*>(biases);
if (!routed) {
  source = reinterpret_cast<const device uint32_t*>(shared_w);
  scale_bytes = reinterpret_cast<const device uint8_t*>(shared_scales);
  bias_bytes = reinterpret_cast<const device uint8_t*>(shared_biases);
}
