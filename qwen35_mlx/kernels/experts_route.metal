// The router of a sparse MoE layer: the top K experts of each token and their renormalised softmax
// weights, and the sigmoid of the shared expert's gate.
//
// Launch: one SIMD group (a threadgroup of its own) per token; each lane has every 32nd expert.
//
// logits     [N, E + 1], the router's, then the shared expert's gate
// -> weights [N, K + 1] float32, the last one the shared expert's
//    experts [N, K] uint32, ascending, so that tokens that share one read it at about the same
//            time; of equal logits the lowest indices

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int token = static_cast<int>(threadgroup_position_in_grid.x);

#include "include_route.metal"
#include "include_store_route.metal"
