// Included by experts_down.metal and experts_down_mixed.metal: what chunk `item` of a token's experts
// belongs to.

const int slot = item < K * CHUNKS ? item / CHUNKS : K;
const int first_item = slot * CHUNKS;
const bool routed = slot < K;
const int first_row = routed ? static_cast<int>(experts[token * K + slot]) * H : 0;
#include "include_expert_sources.metal"
