// Included by experts_route.metal and by experts_up_routed.metal and its mixed twin: the top K experts
// of `token`, in a whole SIMD group. Lane k < K then has lane_expert, lane_weight (to be divided by
// total) and its slot: experts are in the order of their indices.

constexpr int LANE_EXPERTS = (E + 31) / 32;

float lane_logits[LANE_EXPERTS];
float max_logit = -INFINITY;
#pragma unroll
for (int i = 0; i < LANE_EXPERTS; ++i) {
  const int expert = lane + 32 * i;
  lane_logits[i] = expert < E ? static_cast<float>(logits[token * (E + 1) + expert]) : -INFINITY;
  max_logit = lane_logits[i] > max_logit ? lane_logits[i] : max_logit;
}
max_logit = simd_max(max_logit);

// The softmax's denominator over all experts cancels in the renormalisation.
float total = 0.0f;
float lane_weight = 0.0f;                 // lane i has the i-th likeliest expert and its weight
int lane_expert = E;
for (int k = 0; k < K; ++k) {
  float lane_best = -INFINITY;
  int best_expert = E;
  #pragma unroll
  for (int i = 0; i < LANE_EXPERTS; ++i) {
    if (lane_logits[i] > lane_best) {
      lane_best = lane_logits[i];
      best_expert = lane + 32 * i;
    }
  }
  const float best_logit = simd_max(lane_best);
  // The lowest index with that logit: simd_max of negated indices, exact as floats up to 2^24.
  const int best_index = -static_cast<int>(
      simd_max(lane_best == best_logit ? -static_cast<float>(best_expert) : -16777216.0f));
  // If all logits are NaN or -inf there is no best: clamp, for the next kernels index by it.
  const int expert = best_index < E ? best_index : E - 1;
  #pragma unroll
  for (int i = 0; i < LANE_EXPERTS; ++i) {
    if (lane + 32 * i == expert) lane_logits[i] = -INFINITY;
  }
  const float weight = precise::exp(best_logit - max_logit);
  total += weight;
  if (lane == k) {
    lane_weight = weight;
    lane_expert = expert;
  }
}
int slot = 0;
for (int k = 0; k < K; ++k) {
  const int other = simd_broadcast(lane_expert, static_cast<ushort>(k));
  if (other < lane_expert || (other == lane_expert && k < lane)) ++slot;
}
