// Included by matvec.metal and matvec_light.metal: the dots and sums of a chunk's last group go to acc;
// include_packed_dots.metal has added those of the groups before.

if (!PLAIN) {
  constexpr int g = CHUNK_GROUPS - 1;
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    #pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
      acc[r * TOKENS + t] += AFFINE ? scale[r][g] * dot[r][t] + bias[r][g] * x_sum[t][g]
                                    : scale[r][g] * dot[r][t];
    }
  }
}
