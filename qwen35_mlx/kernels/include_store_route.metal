// Included behind include_route.metal: the outputs weights and experts, by one SIMD group of a token.

if (lane < K) {
  weights[token * (K + 1) + slot] = lane_weight / total;
  experts[token * K + slot] = static_cast<uint32_t>(lane_expert);
}
if (lane == K) {
  const float gate = static_cast<float>(logits[token * (E + 1) + E]);
  weights[token * (K + 1) + K] = 1.0f / (1.0f + precise::exp(-gate));
}
