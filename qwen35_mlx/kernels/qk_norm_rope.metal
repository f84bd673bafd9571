// What stands between the joined projection of full attention and its cache, for a few tokens: RMS
// norm of every query and key head, and rotation of its first ROTARY dimensions. One SIMD group to
// a token's head.
//
// projected   [B, L, 2 H D + 2 KV D]   of every head query and gate; then keys; then values
// q_norm, k_norm [D]
// wavelengths [ROTARY / 2] float32     positions per radian
// offset      [1] int32                position of the first token
// EPS and MAGNITUDE, of the norms and of what is rotated, are bits of float32
// -> q [B, H, L, D], k [B, KV, L, D]

constexpr int WIDTH = 2 * (H + KV) * D;
constexpr int PAIRS = ROTARY / 2;         // dimension i turns with i + PAIRS
constexpr int REST = D - ROTARY;
constexpr int TURNED = (PAIRS + 31) / 32; // pairs of a lane
constexpr int KEPT = REST > 0 ? (REST + 31) / 32 : 1;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int head = place % (H + KV);
const int row = place / (H + KV);
const int batch = row / L;
const int token = row % L;
const bool query = head < H;

auto from = projected + row * WIDTH + (query ? 2 * head * D : (H + head) * D);
auto to = query ? q + ((batch * H + head) * L + token) * D
                : k + ((batch * KV + head - H) * L + token) * D;
auto norm = query ? q_norm : k_norm;

// All loads come before the first store, since a compiler may move none across one, and waiting for
// them is what takes the time. A lane with nothing to do reads what lane 0 does.
const float factor = as_type<float>(MAGNITUDE);
const float position = static_cast<float>(static_cast<int>(offset[0]) + token);
float a[TURNED];
float b[TURNED];
float a_norm[TURNED];
float b_norm[TURNED];
float wavelength[TURNED];
#pragma unroll
for (int e = 0; e < TURNED; ++e) {
  const int i = lane + e * 32 < PAIRS ? lane + e * 32 : 0;
  a[e] = static_cast<float>(from[i]);
  b[e] = static_cast<float>(from[i + PAIRS]);
  a_norm[e] = static_cast<float>(norm[i]);
  b_norm[e] = static_cast<float>(norm[i + PAIRS]);
  wavelength[e] = static_cast<float>(wavelengths[i]);
}
float kept[KEPT];
float kept_norm[KEPT];
#pragma unroll
for (int e = 0; e < KEPT; ++e) {
  const int i = lane + e * 32 < REST ? ROTARY + lane + e * 32 : 0;
  kept[e] = static_cast<float>(from[i]);
  kept_norm[e] = static_cast<float>(norm[i]);
}

float cosine[TURNED];
float sine[TURNED];
float squares = 0.0f;
#pragma unroll
for (int e = 0; e < TURNED; ++e) {
  // Rounded as MLX does it: far out, another rounding is another angle.
  const float angle = position * (1.0f / wavelength[e]);
  cosine[e] = precise::cos(angle);
  sine[e] = precise::sin(angle);
  if (lane + e * 32 < PAIRS) squares += a[e] * a[e] + b[e] * b[e];
}
#pragma unroll
for (int e = 0; e < KEPT; ++e)
  if (lane + e * 32 < REST) squares += kept[e] * kept[e];
const float scale = precise::rsqrt(simd_sum(squares) / static_cast<float>(D) + as_type<float>(EPS));

#pragma unroll
for (int e = 0; e < TURNED; ++e) {
  const int i = lane + e * 32;
  if (i < PAIRS) {
    const InT x = static_cast<InT>(a[e] * scale * a_norm[e]);
    const InT y = static_cast<InT>(b[e] * scale * b_norm[e]);
    const float grown_x = static_cast<float>(x) * factor;
    const float grown_y = static_cast<float>(y) * factor;
    to[i] = static_cast<InT>(grown_x * cosine[e] - grown_y * sine[e]);
    to[i + PAIRS] = static_cast<InT>(grown_x * sine[e] + grown_y * cosine[e]);
  }
}
#pragma unroll
for (int e = 0; e < KEPT; ++e) {
  const int i = lane + e * 32;
  if (i < REST) to[ROTARY + i] = static_cast<InT>(kept[e] * scale * kept_norm[e]);
}
