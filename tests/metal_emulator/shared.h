// The position of a thread: the attributes that MLX declares, under their Metal names. Shared by
// the shim and the runtime, so that both have the same layout.
struct Thread {
  uint3 dispatch_threads_per_threadgroup, grid_size, thread_position_in_grid;
  uint3 thread_position_in_threadgroup, threadgroup_position_in_grid, threadgroups_per_grid;
  uint3 threads_per_grid, threads_per_threadgroup;
  uint simdgroup_index_in_threadgroup, simdgroups_per_threadgroup, thread_execution_width;
  uint thread_index_in_simdgroup, thread_index_in_threadgroup, threads_per_simdgroup;
};

// The values that the lanes of a SIMD group pass to one operation: up to 16 bytes each.
struct Exchange {
  unsigned char values[32][16];
  uint active;  // bit i: lane i took part
};
