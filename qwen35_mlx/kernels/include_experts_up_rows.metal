// Included by experts_up.metal and its relatives: the rows of w of this threadgroup's expert, which is
// `chosen` where it is a routed one.

const int first_row = routed            // of the gates, in w or shared_w
    ? chosen * 2 * I + first_output % I
    : first_output - K * I;
const int up_distance = routed ? I : IS;  // rows from a gate to its up

float acc[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) acc[r] = 0.0f;
float rms_scale = 1.0f;

#include "include_expert_sources.metal"
