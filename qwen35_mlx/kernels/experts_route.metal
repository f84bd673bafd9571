// The k experts of each token and their weights: softmax, top-k, renormalisation, and the sigmoid
// of the shared expert's gate.
//
// One SIMD group per token, each lane holding every 32nd expert.
//
// logits  [N, E + 1]    the router's, then the shared expert's gate
// -> weights [N, K + 1] float32, the last one the shared expert's
// -> experts [N, K] uint32, likeliest first; of equals the one with the lower index

constexpr int OWN = (E + 31) / 32;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int token = static_cast<int>(threadgroup_position_in_grid.x);

float own[OWN];
float highest = -INFINITY;
for (int i = 0; i < OWN; ++i) {
  const int expert = lane + 32 * i;
  own[i] = expert < E ? static_cast<float>(logits[token * (E + 1) + expert]) : -INFINITY;
  highest = own[i] > highest ? own[i] : highest;
}
highest = simd_max(highest);

// The softmax's sum over all experts cancels against the renormalisation's.
float total = 0.0f;
float chosen = 0.0f;                      // lane i keeps the i-th weight
for (int k = 0; k < K; ++k) {
  float best = -INFINITY;
  int at = E;
  for (int i = 0; i < OWN; ++i) {
    if (own[i] > best) {
      best = own[i];
      at = lane + 32 * i;
    }
  }
  const float winner = simd_max(best);
  // Indices are exact as floats up to 2^24; the lowest is the highest negated.
  const int lowest = -static_cast<int>(simd_max(best == winner ? -static_cast<float>(at) : -16777216.0f));
  // Of logits that are no numbers there is no likeliest: the next kernels must find an expert yet.
  const int expert = lowest < E ? lowest : E - 1;
  for (int i = 0; i < OWN; ++i) {
    if (lane + 32 * i == expert) own[i] = -INFINITY;
  }
  const float weight = precise::exp(winner - highest);
  total += weight;
  if (lane == k) chosen = weight;
  if (lane == 0) experts[token * K + k] = static_cast<uint32_t>(expert);
}
if (lane < K) weights[token * (K + 1) + lane] = chosen / total;
if (lane == K) {
  const float gate = static_cast<float>(logits[token * (E + 1) + E]);
  weights[token * (K + 1) + K] = 1.0f / (1.0f + precise::exp(-gate));
}
