// The memory of a launch. Clang's thread sanitizer inserts a call into this file before every
// access of a kernel. Each buffer lies in the middle of its own 64 GiB of reserved addresses, so
// that any wrong 32-bit index still identifies the buffer.
#include "runtime.h"

void *mmap(void *, u64, int, int, int, long);
int munmap(void *, u64);
int mprotect(void *, u64, int);
int strcmp(const char *, const char *);

enum { SLOT_BITS = 36, PAGE = 4096, NO_ACCESS = 0, READ_WRITE = 3, ANONYMOUS_LAZY = 0x4022 };
#define ARENA ((u64)MAX_SLOTS << SLOT_BITS)

// The last access to an element. `reach` is how far apart the accessing threads are: a mark of
// several readers names one of them, and only what orders all of them orders the mark.
enum Reach { NEVER, HOST, ONE_THREAD, ONE_SIMD, ONE_THREADGROUP, ANYWHERE };
typedef struct { u32 thread, epoch, simd_epoch; unsigned short reach, line; } Mark;
typedef struct { Mark write, read; } Cell;

typedef struct {
  u64 base, bytes;
  u32 granule, kind;  // kind: 0 device, 1 threadgroup
  Cell *cells;        // none for inputs, which are read-only
  u32 line, column, group;
  char name[64];
} Slot;

static u64 arena;
static void *reserved;
static Slot slots[MAX_SLOTS];
static u32 used, device_slots, threadgroup_bytes;

// Barriers passed, by the threadgroup and by each SIMD group alone, per kind of memory.
static u32 epoch[2], simd_epoch[MAX_THREADS / SIMD][2], group_serial;

// A write after another thread's unordered write is no race if the value stays the same. The new
// value is in memory only after this check, so the comparison is made at the running thread's next
// event.
static struct { u8 *at; u64 size; u8 before[16]; Report race; } suspect;

static u64 pages(u64 bytes) { return (bytes + PAGE) & ~(u64)(PAGE - 1); }

static Slot *new_slot(u64 bytes, u32 granule, int tracked) {
  if (used == MAX_SLOTS) fail(TOO_MUCH_MEMORY);
  Slot *slot = &slots[used];
  memset(slot, 0, sizeof *slot);
  slot->base = arena + ((u64)used++ << SLOT_BITS) + (1ul << (SLOT_BITS - 1));
  slot->bytes = bytes;
  slot->granule = granule;
  mprotect((void *)slot->base, pages(bytes), READ_WRITE);
  if (tracked)
    slot->cells = mmap(0, pages((bytes / granule + 1) * sizeof(Cell)), READ_WRITE,
                       ANONYMOUS_LAZY, -1, 0);
  return slot;
}

void memory_open(const Buffer *buffers, u32 count, u64 *addresses) {
  u64 step = 1ul << SLOT_BITS;
  reserved = mmap(0, ARENA + step, NO_ACCESS, ANONYMOUS_LAZY, -1, 0);
  arena = ((u64)reserved + step - 1) & ~(step - 1);
  used = suspect.size = 0;
  device_slots = count;
  for (u32 i = 0; i < count; i++) {
    const Buffer *buffer = &buffers[i];
    Slot *slot = new_slot(buffer->bytes, buffer->granule, buffer->output);
    memcpy((void *)slot->base, buffer->host, buffer->bytes);
    if (buffer->output && buffer->initialised)
      for (u64 k = 0; k < buffer->bytes / buffer->granule; k++) slot->cells[k].write.reach = HOST;
    addresses[i] = slot->base;
  }
}

void memory_close(const Buffer *buffers, u32 count, int check_outputs) {
  for (u32 i = 0; i < used; i++) {
    Slot *slot = &slots[i];
    if (i < count && buffers[i].output) {
      memcpy(buffers[i].host, (void *)slot->base, slot->bytes);
      for (u64 k = 0; check_outputs && k < slot->bytes / slot->granule; k++)
        if (slot->cells[k].write.reach == NEVER) {
          report.kind = UNWRITTEN_OUTPUT, report.slot = i, report.index = k;
          check_outputs = 0;
        }
    }
    if (slot->cells) munmap(slot->cells, pages((slot->bytes / slot->granule + 1) * sizeof(Cell)));
  }
  munmap(reserved, ARENA + (1ul << SLOT_BITS));
}

// The arrays of a new threadgroup are unwritten (see `emulator_threadgroup_array`), and it is
// ordered with no other threadgroup.
void memory_new_threadgroup(void) {
  group_serial++;
  threadgroup_bytes = 0;
  epoch[0]++, epoch[1]++;
}

void memory_barrier(u32 flags) {
  if (flags & MEM_DEVICE) epoch[0]++;
  if (flags & MEM_THREADGROUP) epoch[1]++;
}

void memory_simd_barrier(u32 simd, u32 flags) {
  if (flags & MEM_DEVICE) simd_epoch[simd][0]++;
  if (flags & MEM_THREADGROUP) simd_epoch[simd][1]++;
}

// `threadgroup T name[...]` in a body: the same array for all threads of a threadgroup.
void *emulator_threadgroup_array(u64 bytes, u64 granule, const char *name, u32 line) {
  Slot *slot = 0;
  for (u32 i = device_slots; i < used && !slot; i++)
    if (slots[i].line == line && !strcmp(slots[i].name, name)) slot = &slots[i];
  if (!slot) {
    slot = new_slot(bytes, granule, 1);
    slot->kind = 1, slot->line = line;
    for (u32 i = 0; i < sizeof slot->name - 1 && name[i]; i++) slot->name[i] = name[i];
  }
  if (slot->group != group_serial) {
    slot->group = group_serial;
    memset(slot->cells, 0, bytes / granule * sizeof(Cell));
    threadgroup_bytes += bytes;
    if (threadgroup_bytes > MAX_THREADGROUP_BYTES) fail(TOO_MUCH_MEMORY);
  }
  return (void *)slot->base;
}

// Whether the marked access is ordered before the running thread's current one.
static inline int is_ordered(const Mark *mark, u32 kind) {
  if (mark->reach <= HOST) return 1;
  if (mark->reach == ONE_THREAD && mark->thread == self) return 1;
  if (mark->reach == ANYWHERE || mark->thread / MAX_THREADS != self / MAX_THREADS) return 0;
  if (mark->epoch < epoch[kind]) return 1;
  return mark->reach <= ONE_SIMD && mark->thread / SIMD == self / SIMD &&
         mark->simd_epoch < simd_epoch[self % MAX_THREADS / SIMD][kind];
}

static Mark now(u32 kind) {
  return (Mark){self, epoch[kind], simd_epoch[self % MAX_THREADS / SIMD][kind], ONE_THREAD,
                emulator_line};
}

// Reports an access and the other thread's; `fail` adds the running thread.
static void describe(const Slot *slot, long index, int write, const Mark *other, int other_write) {
  report.slot = slot - slots;
  report.index = index;
  report.write = write;
  report.line = emulator_line;
  memcpy(report.name, slot->name, sizeof report.name);
  if (!other) return;
  Thread place;
  locate(other->thread, &place);
  for (u32 i = 0; i < 3; i++) report.other[i] = place.thread_position_in_grid[i];
  report.other_write = other_write;
  report.other_line = other->line;
  report.several = other->reach > ONE_THREAD;
}

void memory_check_suspect(void) {
  u64 size = suspect.size;
  suspect.size = 0;
  if (!size || !memcmp(suspect.at, suspect.before, size)) return;
  report = suspect.race;
  fail(RACE);
}

static void track_write(Slot *slot, u64 index, u64 address, u64 size) {
  Cell *cell = &slot->cells[index];
  if (!is_ordered(&cell->read, slot->kind)) {
    describe(slot, index, 1, &cell->read, 0);
    fail(RACE);
  }
  if (!is_ordered(&cell->write, slot->kind) && !suspect.size) {
    describe(slot, index, 1, &cell->write, 1);
    suspect.at = (u8 *)address, suspect.size = size, suspect.race = report;
    memcpy(suspect.before, suspect.at, size);
    memset(&report, 0, sizeof report);
  }
  cell->write = now(slot->kind);
}

static void track_read(Slot *slot, u64 index) {
  Cell *cell = &slot->cells[index];
  Mark *read = &cell->read;
  if (cell->write.reach == NEVER || !is_ordered(&cell->write, slot->kind)) {
    describe(slot, index, 0, cell->write.reach == NEVER ? 0 : &cell->write, 1);
    fail(cell->write.reach == NEVER ? UNWRITTEN_READ : RACE);
  }
  if (is_ordered(read, slot->kind)) {
    *read = now(slot->kind);
  } else {
    u32 reach = read->thread / MAX_THREADS != self / MAX_THREADS ? ANYWHERE
                : read->thread / SIMD != self / SIMD             ? ONE_THREADGROUP
                                                                 : ONE_SIMD;
    if (read->reach < reach) read->reach = reach;
  }
}

static inline __attribute__((always_inline)) void touch(u64 address, u64 size, int write) {
  u64 offset = address - arena;
  if (offset >= ARENA) return;  // a thread's own memory
  if (suspect.size) memory_check_suspect();
  Slot *slot = &slots[offset >> SLOT_BITS];
  long at = address - slot->base;
  if (at < 0 || at + size > slot->bytes) {
    describe(slot, (at < 0 ? at - (long)slot->granule + 1 : at) / (long)slot->granule, write, 0, 0);
    fail(OUT_OF_BOUNDS);
  }
  if (!slot->cells && !write) return;
  u64 index = at / slot->granule, last = (at + size - 1) / slot->granule;
  if (!slot->cells) {
    describe(slot, index, write, 0, 0);
    fail(READ_ONLY);
  }
  for (; index <= last; index++)
    if (write) track_write(slot, index, address, size);
    else track_read(slot, index);
}

static void touch_aligned(u64 address, u64 size, int write) {
  touch(address, size, write);
  if (address % size && address - arena < ARENA) {
    Slot *slot = &slots[(address - arena) >> SLOT_BITS];
    describe(slot, (address - slot->base) / slot->granule, write, 0, 0);
    fail(MISALIGNED);
  }
}

// The functions that clang calls.
#define ACCESS(size)                                                               \
  void __tsan_read##size(u64 address) { touch_aligned(address, size, 0); }         \
  void __tsan_write##size(u64 address) { touch_aligned(address, size, 1); }        \
  void __tsan_unaligned_read##size(u64 address) { touch(address, size, 0); }       \
  void __tsan_unaligned_write##size(u64 address) { touch(address, size, 1); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)

void __tsan_init(void) {}

static void touch_bytes(u64 address, u64 size, int write) {
  for (u64 i = 0; i < size; i++) touch(address + i, 1, write);
}
void *__tsan_memcpy(void *to, const void *from, u64 size) {
  touch_bytes((u64)from, size, 0);
  touch_bytes((u64)to, size, 1);
  return memcpy(to, from, size);
}
void *__tsan_memmove(void *to, const void *from, u64 size) {
  touch_bytes((u64)from, size, 0);
  touch_bytes((u64)to, size, 1);
  return memmove(to, from, size);
}
void *__tsan_memset(void *to, int value, u64 size) {
  touch_bytes((u64)to, size, 1);
  return memset(to, value, size);
}
