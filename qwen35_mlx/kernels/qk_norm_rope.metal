// Queries, keys and values of full attention between their joint projection and the cache, for a few
// tokens: RMS norm of every query and key head, then rotation of its first ROTARY dimensions. Values
// are copied beside the keys, so that both go into the cache together.
//
// Launch: one SIMD group (a threadgroup of its own) per token and head, B * L * (H + KV) in all: that
// of a key has the value, too.
//
// projected      [B, L, 2 H D + 2 KV D]   query and gate of each head; then keys; then values
// q_norm, k_norm [D]; EPS: bits of the norms' epsilon
// wavelengths    [ROTARY / 2] float32     positions per radian
// offset         [1] or [B] int32         position of the first token of all rows, or of each
// MAGNITUDE      bits of the float32 that rotated dimensions are multiplied by
// -> q [B, H, L, D], kv [2, B, KV, L, D]

constexpr int WIDTH = 2 * (H + KV) * D;
constexpr int PAIRS = ROTARY / 2;         // dimension i rotates with i + PAIRS
constexpr int UNROTATED = D - ROTARY;
constexpr int LANE_PAIRS = (PAIRS + 31) / 32;
constexpr int LANE_UNROTATED = UNROTATED > 0 ? (UNROTATED + 31) / 32 : 1;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int head = threadgroup_index % (H + KV);
const int row = threadgroup_index / (H + KV);
const int batch = row / L;
const int token = row % L;
const bool is_query = head < H;

auto head_in = projected + row * WIDTH + (is_query ? 2 * head * D : (H + head) * D);
auto head_out = is_query ? q + ((batch * H + head) * L + token) * D
                         : kv + ((batch * KV + head - H) * L + token) * D;
auto norm_weight = is_query ? q_norm : k_norm;

if (!is_query) {
  auto value_out = head_out + static_cast<int>(projected_shape[0]) * KV * L * D;
  for (int i = lane; i < D; i += 32) value_out[i] = head_in[KV * D + i];
}

// All loads come before the first store, since a compiler moves none across a store and their
// latency dominates. A lane without a pair reads the first.
const float magnitude = as_type<float>(MAGNITUDE);
const float position = static_cast<float>(static_cast<int>(offset[offset_shape[0] == 1 ? 0 : batch]) + token);
float a[LANE_PAIRS];
float b[LANE_PAIRS];
float a_norm[LANE_PAIRS];
float b_norm[LANE_PAIRS];
float wavelength[LANE_PAIRS];
#pragma unroll
for (int e = 0; e < LANE_PAIRS; ++e) {
  const int i = lane + e * 32 < PAIRS ? lane + e * 32 : 0;
  a[e] = static_cast<float>(head_in[i]);
  b[e] = static_cast<float>(head_in[i + PAIRS]);
  a_norm[e] = static_cast<float>(norm_weight[i]);
  b_norm[e] = static_cast<float>(norm_weight[i + PAIRS]);
  wavelength[e] = static_cast<float>(wavelengths[i]);
}
float unrotated[LANE_UNROTATED];
float unrotated_norm[LANE_UNROTATED];
#pragma unroll
for (int e = 0; e < LANE_UNROTATED; ++e) {
  const int i = lane + e * 32 < UNROTATED ? ROTARY + lane + e * 32 : 0;
  unrotated[e] = static_cast<float>(head_in[i]);
  unrotated_norm[e] = static_cast<float>(norm_weight[i]);
}

float cosine[LANE_PAIRS];
float sine[LANE_PAIRS];
float square_sum = 0.0f;
#pragma unroll
for (int e = 0; e < LANE_PAIRS; ++e) {
  // Rounded as MLX rounds it: at far positions another rounding is another angle.
  const float angle = position * (1.0f / wavelength[e]);
  cosine[e] = precise::cos(angle);
  sine[e] = precise::sin(angle);
  if (lane + e * 32 < PAIRS) square_sum += a[e] * a[e] + b[e] * b[e];
}
#pragma unroll
for (int e = 0; e < LANE_UNROTATED; ++e)
  if (lane + e * 32 < UNROTATED) square_sum += unrotated[e] * unrotated[e];
const float scale =
    precise::rsqrt(simd_sum(square_sum) / static_cast<float>(D) + as_type<float>(EPS));

#pragma unroll
for (int e = 0; e < LANE_PAIRS; ++e) {
  const int i = lane + e * 32;
  if (i < PAIRS) {
    const InT x = static_cast<InT>(a[e] * scale * a_norm[e]);
    const InT y = static_cast<InT>(b[e] * scale * b_norm[e]);
    const float scaled_x = static_cast<float>(x) * magnitude;
    const float scaled_y = static_cast<float>(y) * magnitude;
    head_out[i] = static_cast<InT>(scaled_x * cosine[e] - scaled_y * sine[e]);
    head_out[i + PAIRS] = static_cast<InT>(scaled_x * sine[e] + scaled_y * cosine[e]);
  }
}
#pragma unroll
for (int e = 0; e < LANE_UNROTATED; ++e) {
  const int i = lane + e * 32;
  if (i < UNROTATED)
    head_out[ROTARY + i] = static_cast<InT>(unrotated[e] * scale * unrotated_norm[e]);
}
