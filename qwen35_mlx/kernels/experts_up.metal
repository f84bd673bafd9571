// RMS norm, then the gate and up projections of each token's experts and of the shared one, and
// SwiGLU.
//
// Launch: N * ceil((K I + IS) / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs
// of one token and expert each: OUTPUTS divides I and IS. Neighbours have the same outputs of all
// tokens: they read the shared expert, and experts that tokens have in common, at about the same
// time, so that a small cache holds them.
// A thread reads the same chunks of all rows, so that all its loads are in flight at once.
//
// x           [N, H]
// norm_weight [H], of the RMS norm of x; EPS: bits of its epsilon
// experts     [N, K] uint32
// w           [E, 2 I, H], gate rows first; scales, biases [E, 2 I, H / ROUTED_GS]
// shared_w    [2 IS, H]; shared_scales, shared_biases [2 IS, H / SHARED_GS]
//             Both in the same format of include_packed_format.metal
// -> h        [N, K I + IS] float32   silu(gate) * up of each expert, then of the shared one

#include "include_experts_up_begin.metal"
const int chosen = routed ? static_cast<int>(experts[token * K + first_output / I]) : 0;
#include "include_experts_up_rows.metal"
{
#include "include_routed_format.metal"
#include "include_expert_gates_and_ups.metal"
}
#include "include_experts_up_end.metal"
