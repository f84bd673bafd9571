// Runs a kernel's threads. Each is a fiber with its own stack. The lanes of a SIMD group run one
// after the other up to the next operation that they share, where all must meet; so do the SIMD
// groups of a threadgroup at barriers. Threadgroups run one after the other.
#include "runtime.h"

void *mmap(void *, u64, int, int, int, long);
int munmap(void *, u64);

enum { STACK = 65536 };
enum State { READY, WAITING, LEFT };
enum Operation { EXCHANGE, SIMD_BARRIER, THREADGROUP_BARRIER };

typedef struct {
  void *stack_pointer;
  enum State state;
  u32 operation, flags, line, column;
  const char *name;
  Thread thread;
} Lane;

typedef struct { Exchange exchanges[2]; u32 round; } Simd;

void emulator_entry(const u64 *buffers, const Thread *thread);  // in the kernel

u32 self, emulator_line;
Report report;

static Launch launch;
static u64 addresses[MAX_SLOTS];
static Lane lanes[MAX_THREADS];
static Simd simds[MAX_THREADS / SIMD];
static u32 threads;  // of this threadgroup
static u32 running;  // whether a fiber runs
static u32 groups[3];
static u8 *stacks;
static void *scheduler;

// Saves the callee-saved registers on this stack, and restores those of the other stack.
void emulator_switch(void **save, void *load);
__asm__(".text\n.globl emulator_switch\n.hidden emulator_switch\nemulator_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static Lane *lane(void) { return &lanes[self % MAX_THREADS]; }

static void back_to_scheduler(void) { emulator_switch(&lane()->stack_pointer, scheduler); }

void fail(u32 kind) {
  if (!report.kind) {
    Thread place;
    locate(self, &place);
    for (u32 i = 0; i < 3; i++) report.thread[i] = place.thread_position_in_grid[i];
    report.kind = kind;
  }
  if (running) back_to_scheduler();
}

static void lane_main(void) {
  emulator_entry(addresses, &lane()->thread);
  memory_check_suspect();
  lane()->state = LEFT;
  back_to_scheduler();
}

static u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// A ragged grid ends in smaller threadgroups, as with Metal's dispatchThreads.
void locate(u32 id, Thread *t) {
  u32 group = id / MAX_THREADS, index = id % MAX_THREADS;
  uint3 grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
  uint3 full = {launch.group[0], launch.group[1], launch.group[2]};
  uint3 count = {groups[0], groups[1], groups[2]};
  uint3 at = {group % groups[0], group / groups[0] % groups[1], group / groups[0] / groups[1]};
  uint3 size;
  for (u32 i = 0; i < 3; i++) size[i] = smaller(full[i], grid[i] - at[i] * full[i]);
  uint3 inside = {index % size.x, index / size.x % size.y, index / size.x / size.y};
  u32 total = size.x * size.y * size.z;
  *t = (Thread){
      .dispatch_threads_per_threadgroup = full, .grid_size = grid,
      .thread_position_in_grid = at * full + inside, .thread_position_in_threadgroup = inside,
      .threadgroup_position_in_grid = at, .threadgroups_per_grid = count,
      .threads_per_grid = grid, .threads_per_threadgroup = size,
      .simdgroup_index_in_threadgroup = index / SIMD,
      .simdgroups_per_threadgroup = (total + SIMD - 1) / SIMD, .thread_execution_width = SIMD,
      .thread_index_in_simdgroup = index % SIMD, .thread_index_in_threadgroup = index,
      .threads_per_simdgroup = SIMD};
}

// The i-th of n in the seed's order; steps of a prime visit all of them.
static u32 pick(u32 i, u32 n) {
  static const u64 primes[] = {4294967291, 4294967279, 4294967231, 4294967197};
  if (launch.seed == 0) return i;
  if (launch.seed == 1) return n - 1 - i;
  return (i * primes[launch.seed % 4] + launch.seed * 7919ul) % n;
}

static void wait_at(u32 operation, const char *name, u32 flags, u32 line, u32 column) {
  Lane *l = lane();
  memory_check_suspect();
  l->state = WAITING;
  l->operation = operation, l->name = name, l->flags = flags, l->line = line, l->column = column;
  back_to_scheduler();
}

// The functions that the shim calls. There are two exchanges, since lanes read the one of a round
// while others fill that of the next.
const Exchange *emulator_exchange(const char *name, const void *value, u32 size, u32 line,
                                  u32 column) {
  Simd *simd = &simds[self % MAX_THREADS / SIMD];
  Exchange *exchange = &simd->exchanges[simd->round % 2];
  memcpy(exchange->values[self % SIMD], value, size);
  wait_at(EXCHANGE, name, 0, line, column);
  return exchange;
}
u32 emulator_lane(void) { return self % SIMD; }
u32 emulator_sum_order(void) { return launch.sums; }
const void *emulator_value(const Exchange *exchange, u32 index) {
  if (index >= SIMD || !(exchange->active >> index & 1)) {
    report.index = index, report.line = lane()->line;
    fail(INACTIVE_LANE);
  }
  return exchange->values[index];
}
void emulator_threadgroup_barrier(u32 flags, u32 line, u32 column) {
  wait_at(THREADGROUP_BARRIER, "threadgroup_barrier", flags, line, column);
}
void emulator_simdgroup_barrier(u32 flags, u32 line, u32 column) {
  wait_at(SIMD_BARRIER, "simdgroup_barrier", flags, line, column);
}

// Checks that all threads of [first, last) that have not left wait at the same operation. Returns
// one that waits, or none. With `complete` no thread may have left.
static Lane *meet(u32 first, u32 last, int complete) {
  Lane *waiting = 0;
  for (u32 i = first; i < last && !waiting; i++)
    if (lanes[i].state == WAITING) waiting = &lanes[i];
  if (!waiting) return 0;
  complete |= waiting->operation != EXCHANGE;
  for (u32 i = first; i < last; i++) {
    Lane *l = &lanes[i];
    int same = l->operation == waiting->operation && l->line == waiting->line &&
               l->column == waiting->column;
    if (l->state == WAITING ? same : !complete) continue;
    self = self / MAX_THREADS * MAX_THREADS + (waiting - lanes);
    report.line = waiting->line;
    for (u32 k = 0; k < 3; k++) report.other[k] = l->thread.thread_position_in_grid[k];
    report.other_line = l->state == WAITING ? l->line : 0;
    for (u32 k = 0; waiting->name[k]; k++) report.name[k] = waiting->name[k];
    fail(DIVERGENCE);
    return 0;
  }
  return waiting;
}

static void release(u32 first, u32 last) {
  for (u32 i = first; i < last; i++)
    if (lanes[i].state == WAITING) lanes[i].state = READY;
}

// Runs until all lanes have left or wait at a threadgroup barrier.
static void run_simd(u32 index, u32 group) {
  Simd *simd = &simds[index];
  u32 first = index * SIMD, last = smaller(first + SIMD, threads);
  for (;;) {
    for (u32 i = 0; i < last - first; i++) {
      u32 chosen = first + pick(i, last - first);
      if (lanes[chosen].state != READY) continue;
      self = group * MAX_THREADS + chosen;
      running = 1;
      emulator_switch(&scheduler, lanes[chosen].stack_pointer);
      running = 0;
      if (report.kind) return;
    }
    Lane *waiting = meet(first, last, 0);
    if (!waiting || waiting->operation == THREADGROUP_BARRIER) return;
    if (waiting->operation == SIMD_BARRIER) {
      memory_simd_barrier(index, waiting->flags);
    } else {
      Exchange *exchange = &simd->exchanges[simd->round++ % 2];
      exchange->active = 0;
      for (u32 i = first; i < last; i++)
        exchange->active |= (u32)(lanes[i].state == WAITING) << (i - first);
    }
    release(first, last);
  }
}

static void run_threadgroup(u32 group) {
  Thread place;
  locate(group * MAX_THREADS, &place);
  threads = place.threads_per_threadgroup.x * place.threads_per_threadgroup.y *
            place.threads_per_threadgroup.z;
  for (u32 i = 0; i < threads; i++) {
    u64 *top = (u64 *)(stacks + (u64)(i + 1) * STACK);
    memset(top - 8, 0, 64);  // six registers, the entry point and its return address
    top[-2] = (u64)lane_main;
    lanes[i] = (Lane){.stack_pointer = top - 8};
    locate(group * MAX_THREADS + i, &lanes[i].thread);
  }
  memory_new_threadgroup();
  u32 count = place.simdgroups_per_threadgroup;
  for (;;) {
    for (u32 i = 0; i < count; i++) {
      run_simd(pick(i, count), group);
      if (report.kind) return;
    }
    Lane *waiting = meet(0, threads, 1);
    if (!waiting) return;
    memory_barrier(waiting->flags);
    release(0, threads);
  }
}

__attribute__((visibility("default"))) Report *emulator_run(const Launch *requested,
                                                             const Buffer *buffers) {
  memset(&report, 0, sizeof report);
  launch = *requested;
  for (u32 i = 0; i < 3; i++) groups[i] = (launch.grid[i] + launch.group[i] - 1) / launch.group[i];
  u32 count = groups[0] * groups[1] * groups[2];
  stacks = mmap(0, (u64)MAX_THREADS * STACK, 3, 0x4022, -1, 0);
  memory_open(buffers, launch.buffers, addresses);
  u32 control = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(launch.flush ? control | 0x8040 : control & ~0x8040u);
  for (u32 i = 0; i < count && !report.kind; i++) run_threadgroup(pick(i, count));
  __builtin_ia32_ldmxcsr(control);
  memory_close(buffers, launch.buffers, !report.kind);
  munmap(stacks, (u64)MAX_THREADS * STACK);
  return &report;
}

// The functions that clang's other sanitizers call.
typedef struct { const char *file; u32 line, column; } Source;
void __ubsan_handle_out_of_bounds(const Source *source, long index) {
  report.line = source->line, report.index = index;
  fail(BAD_INDEX);
}
void __ubsan_handle_divrem_overflow(const Source *source) {
  report.line = source->line;
  fail(BAD_DIVISION);
}

// Rounding to bfloat16, to nearest even: a function of clang's support library.
__bf16 __truncsfbf2(float value) {
  u32 bits;
  __bf16 result;
  memcpy(&bits, &value, 4);
  u32 rounded = value != value ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  unsigned short top = rounded >> 16;
  memcpy(&result, &top, 2);
  return result;
}
