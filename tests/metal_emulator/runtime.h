// Shared by the two halves of the runtime: memory.c checks accesses, schedule.c runs the threads.
// Freestanding, so that no C headers have to be installed.
typedef unsigned char u8;
typedef unsigned int u32, uint;
typedef unsigned long u64;
typedef u32 uint3 __attribute__((ext_vector_type(3)));
#include "shared.h"
typedef struct Thread Thread;
typedef struct Exchange Exchange;

void *memcpy(void *, const void *, u64);
void *memmove(void *, const void *, u64);
void *memset(void *, int, u64);
int memcmp(const void *, const void *, u64);

enum {  // as in `launch.py`
  OUT_OF_BOUNDS = 1, MISALIGNED, READ_ONLY, RACE, UNWRITTEN_READ, UNWRITTEN_OUTPUT, DIVERGENCE,
  INACTIVE_LANE, TOO_MUCH_MEMORY, BAD_INDEX, BAD_DIVISION
};
enum { SIMD = 32, MAX_THREADS = 1024, MAX_SLOTS = 64, MAX_THREADGROUP_BYTES = 32768 };
enum { MEM_DEVICE = 1, MEM_THREADGROUP = 2 };  // Metal's mem_flags

// `launch.py` mirrors the three structures below with ctypes.
typedef struct {
  u8 *host;     // copied in before the launch, and back after it if `output`
  u64 bytes;
  u32 granule;  // bytes per element: accesses are tracked element by element
  u32 output, initialised;
} Buffer;

typedef struct {
  u32 kind, slot, write, line, other_line, other_write, several;  // line 0: the kernel's end
  long index;
  u32 thread[3], other[3];  // positions in the grid
  char name[64];        // of a threadgroup array or an operation
} Report;

typedef struct {
  u32 grid[3], group[3];
  u32 seed;   // order of threadgroups, SIMD groups and lanes: 0 ascending, 1 descending, else mixed
  u32 sums;   // order of simd_sum
  u32 flush;  // subnormal floats become zero
  u32 buffers;
} Launch;

// memory.c
void memory_open(const Buffer *buffers, u32 count, u64 *addresses);
void memory_close(const Buffer *buffers, u32 count, int check_outputs);
void memory_new_threadgroup(void);
void memory_barrier(u32 flags);
void memory_simd_barrier(u32 simd, u32 flags);
void memory_check_suspect(void);

// schedule.c
// The line of the kernel, set at each access.
extern u32 emulator_line __attribute__((visibility("hidden")));
extern u32 self;  // the running thread: threadgroup * MAX_THREADS + index in it
extern Report report;
void locate(u32 id, Thread *thread);
void fail(u32 kind);  // reports the running thread; does not return while a kernel runs
