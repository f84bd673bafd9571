// What one thread knows about its place: the attributes MLX can declare, under their Metal names.
// Shared by the shim and the runtime, so the two cannot disagree about the layout.
struct Thread {
  uint3 dispatch_threads_per_threadgroup, grid_size, thread_position_in_grid;
  uint3 thread_position_in_threadgroup, threadgroup_position_in_grid, threadgroups_per_grid;
  uint3 threads_per_grid, threads_per_threadgroup;
  uint simdgroup_index_in_threadgroup, simdgroups_per_threadgroup, thread_execution_width;
  uint thread_index_in_simdgroup, thread_index_in_threadgroup, threads_per_simdgroup;
};

// What the lanes of a SIMD group gave to one common operation: up to 16 bytes each.
struct Exchange {
  unsigned char values[32][16];
  uint active;  // bit i: lane i took part
};
