// Part of cuda_emulator.h: threads as fibers, their barriers and exchanges, and shared memory.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "language.h"

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace cuda_emulator {

struct Properties {
  const char* name;
  int major, minor, multiprocessors, shared_per_block, shared_per_multiprocessor, l2;
};
static const Properties devices[] = {
    {"sm_80", 8, 0, 108, 163 << 10, 164 << 10, 40 << 20},
    {"sm_90", 9, 0, 132, 227 << 10, 228 << 10, 50 << 20},
    {"sm_120", 12, 0, 170, 99 << 10, 100 << 10, 96 << 20},
};

struct Barrier {
  unsigned arrived = 0, expected = 0;
  uint64_t generation = 0;
  std::string where;  // of the threads that wait
};

struct WarpGroup {  // the lanes of one mask
  Barrier barrier;
  alignas(16) unsigned char slots[2][32][16];
};

struct Block {
  uint3 index;
  unsigned rank = 0, running = 0, finished = 0;
  bool started = false;
  unsigned char* shared = nullptr;  // dynamic; ends at an inaccessible page
  unsigned char* pages = nullptr;
  size_t page_bytes = 0;
  std::map<const void*, unsigned char*> statics;
  std::vector<std::unique_ptr<unsigned char[]>> static_memory;
  size_t static_bytes = 0;
  Barrier barrier;
  int votes[2] = {0, 0};
  std::vector<std::map<unsigned, WarpGroup>> warps;
};

struct Fiber {
  ucontext_t context;
  jmp_buf resume;
  unsigned char* stack = nullptr;
  bool entered = false, done = false;
  uint3 thread;
  unsigned linear = 0;
  Block* block = nullptr;
  const Barrier* waiting = nullptr;
  uint64_t generation = 0, cluster_generation = 0;
  bool cluster_arrived = false, cluster_waited = false;
  std::string what;  // it waits for
};

struct State {
  int device = 1;
  uint64_t seed = 0;
  std::string error;
  std::map<const void*, std::map<int, int>> attributes;
  std::vector<std::string> launches;
  std::vector<std::pair<void*, size_t>> allocations;

  std::vector<std::unique_ptr<Fiber>> pool;
  std::vector<std::unique_ptr<Block>> resident;
  Barrier cluster;
  unsigned cluster_size = 1;
  size_t dynamic_shared = 0;
  std::function<void()> body;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  sigjmp_buf failure;
  bool progress = false;
};
static State state;

constexpr size_t kStack = 256 << 10,
                 kPage = 4096;  // a stack holds all registers of a thread of PTX

inline std::string where(const Fiber* f) {
  char text[120];
  const uint3 b = f->block->index, t = f->thread;
  std::snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.x, t.y, t.z, b.x,
                b.y, b.z);
  return text;
}

[[noreturn]] inline void fail(const std::string& message) {
  state.error =
      "cuda_emulator: " + (state.current ? where(state.current) + ": " : std::string()) + message;
  siglongjmp(state.failure, 1);
}

inline void enter(Fiber* f) {  // make `f` the running thread as far as the kernel can see
  state.current = f;
  threadIdx = f->thread;
  blockIdx = f->block->index;
}

inline void to_scheduler() {
  Fiber* self = state.current;
  if (!_setjmp(self->resume)) _longjmp(state.scheduler, 1);
  enter(self);
}

inline void wait_for(Barrier& barrier, uint64_t generation, const std::string& what) {
  Fiber* self = state.current;
  while (barrier.generation == generation) {
    self->waiting = &barrier;
    self->generation = generation;
    self->what = what;
    to_scheduler();
  }
  self->waiting = nullptr;
}

inline uint64_t arrive(Barrier& barrier, const std::string& at) {
  if (barrier.arrived == 0)
    barrier.where = at;
  else if (barrier.where != at)
    fail("is at " + at + " while others of its barrier are at " + barrier.where);
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    state.progress = true;
  }
  return generation;
}

inline std::string at_line(const char* name, int line) {
  return std::string(name) + " (line " + std::to_string(line) + ")";
}

inline void sync_threads(int line) {
  Barrier& barrier = state.current->block->barrier;
  const std::string at = at_line("__syncthreads", line);
  wait_for(barrier, arrive(barrier, at), at);
}

inline int sync_threads_count(int predicate, int line) {
  Block* block = state.current->block;
  const std::string at = at_line("__syncthreads_count", line);
  const uint64_t generation = block->barrier.generation;
  block->votes[(generation + 1) & 1] *=
      block->barrier.arrived != 0;  // the first to arrive clears the next one's count
  block->votes[generation & 1] += predicate != 0;
  wait_for(block->barrier, arrive(block->barrier, at), at);
  return block->votes[generation & 1];
}

// Returns the value that lane `source` of the mask contributes to this exchange.
template <class T>
std::vector<T> gather(unsigned mask, const T& value, const std::string& at) {
  static_assert(sizeof(T) <= 16);
  Fiber* self = state.current;
  const unsigned lane = self->linear & 31, warp = self->linear >> 5;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned lanes = std::min(32u, threads - warp * 32);
  if (!(mask >> lane & 1)) fail(at + ": the mask leaves out the calling lane");
  if (lanes < 32 && mask >> lanes)
    fail(at + ": the mask names lanes that the last warp does not have");
  WarpGroup& group = self->block->warps[warp][mask];
  group.barrier.expected = __builtin_popcount(mask);
  const uint64_t generation = group.barrier.generation;
  std::memcpy(group.slots[generation & 1][lane], &value, sizeof(T));
  wait_for(group.barrier, arrive(group.barrier, at), at);
  std::vector<T> all(32);
  for (int i = 0; i < 32; ++i)
    std::memcpy(static_cast<void*>(&all[i]), group.slots[generation & 1][i], sizeof(T));
  return all;
}

template <class T>
T shuffle(unsigned mask, T value, int source, const char* name, int line) {
  const std::string at = at_line(name, line);
  const std::vector<T> all = gather(mask, value, at);
  const int lane = state.current->linear & 31;
  if (source == lane) return value;
  if (!(mask >> source & 1))
    fail(at + ": reads lane " + std::to_string(source) + ", which is not in the mask");
  return all[source];
}

inline unsigned ballot(unsigned mask, bool predicate, const char* name, int line) {
  const std::vector<int> all = gather<int>(mask, predicate, at_line(name, line));
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= unsigned((mask >> i & 1) && all[i]) << i;
  return bits;
}

template <class T, class F>
T reduce(unsigned mask, T value, F f, int line) {
  const std::vector<T> all = gather(mask, value, at_line("__reduce_sync", line));
  bool first = true;
  T result{};
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) result = first ? all[i] : f(result, all[i]), first = false;
  return result;
}

inline void* static_shared(const void* key, size_t bytes) {
  Block* block = state.current->block;
  unsigned char*& memory = block->statics[key];
  if (!memory) {
    block->static_memory.emplace_back(new (std::align_val_t(16)) unsigned char[bytes]);
    memory = block->static_memory.back().get();
    std::memset(memory, 0xff, bytes);
    block->static_bytes += bytes;
    if (block->static_bytes > 48 << 10) fail("more than 48 KB of static shared memory");
    if (block->static_bytes + state.dynamic_shared > size_t(devices[state.device].shared_per_block))
      fail("static and dynamic shared memory together exceed the device's limit");
  }
  return memory;
}

inline void* dynamic_shared() { return state.current->block->shared; }

inline void* map_shared(const void* pointer, unsigned rank) {
  Block* own = state.current->block;
  if (rank >= state.cluster_size)
    fail("maps shared memory of block " + std::to_string(rank) + ", beyond its cluster");
  const auto* p = static_cast<const unsigned char*>(pointer);
  if (p < own->pages || p >= own->pages + own->page_bytes)
    fail("maps a pointer that is not into its own dynamic shared memory");
  if (rank != own->rank && !state.current->cluster_waited)
    fail(
        "reaches into another block, which may not have started, before the first cluster barrier");
  Block* other = state.resident[rank].get();
  return other->pages + (p - own->pages);  // pages of a block that has ended are inaccessible
}

inline void cluster_arrive(int) {
  Fiber* self = state.current;
  if (self->cluster_arrived) fail("arrives twice at the cluster barrier");
  self->cluster_arrived = true;
  self->cluster_generation = arrive(state.cluster, "the cluster barrier");
}

inline void cluster_wait(int line) {
  Fiber* self = state.current;
  if (!self->cluster_arrived) fail("waits at the cluster barrier without having arrived");
  self->cluster_arrived = false;
  wait_for(state.cluster, self->cluster_generation, at_line("the cluster barrier", line));
  self->cluster_waited = true;
}

inline void start_block(Block* block) {
  mprotect(block->pages, block->page_bytes, PROT_READ | PROT_WRITE);
  std::memset(block->pages, 0xff, block->page_bytes);
  block->started = true;
}

inline void fiber_main() {
  for (;;) {
    Fiber* self = state.current;
    if (!self->block->started) start_block(self->block);
    state.body();
    self->done = true;
    state.progress = true;
    Block* block = self->block;
    if (self->cluster_arrived) fail("ends between arrival and wait at the cluster barrier");
    if (++block->finished == block->running) mprotect(block->pages, block->page_bytes, PROT_NONE);
    to_scheduler();
  }
}

inline void run_fiber(Fiber* f) {
  enter(f);
  if (_setjmp(state.scheduler)) return;
  if (f->entered) _longjmp(f->resume, 1);
  f->entered = true;
  setcontext(&f->context);
}

inline void on_fault(int signal, siginfo_t* info, void*) {
  char text[160];
  if (signal == SIGILL)
    std::snprintf(text, sizeof text, "misaligned or out-of-bounds access (the compiler's check)");
  else
    std::snprintf(text, sizeof text, "access outside of its buffer or shared memory, at address %p",
                  info->si_addr);
  fail(text);
}

inline Fiber* fiber(size_t index) {
  while (state.pool.size() <= index) state.pool.push_back(std::make_unique<Fiber>());
  Fiber* f = state.pool[index].get();
  if (!f->stack)
    f->stack =
        static_cast<unsigned char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (!f->entered) {
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = kStack;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
  }
  return f;
}

// Runs blocks [first, first + count) of the launch, resident together.
inline void run_resident(unsigned first, unsigned count, std::mt19937_64& random) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  std::vector<Fiber*> fibers;
  state.cluster = Barrier{};
  state.cluster.expected = threads * count;
  for (unsigned i = 0; i < count; ++i) {
    Block* block = state.resident[i].get();
    const unsigned linear = first + i;
    block->index = {linear % gridDim.x, linear / gridDim.x % gridDim.y,
                    linear / gridDim.x / gridDim.y};
    block->rank = i;
    block->running = threads;
    block->finished = 0;
    block->started = false;
    block->statics.clear();
    block->static_memory.clear();
    block->static_bytes = 0;
    block->barrier = Barrier{};
    block->barrier.expected = threads;
    block->votes[0] = block->votes[1] = 0;
    block->warps.assign((threads + 31) / 32, {});
    for (unsigned t = 0; t < threads; ++t) {
      Fiber* f = fiber(size_t(i) * threads + t);
      f->done = f->cluster_arrived = f->cluster_waited = false;
      f->waiting = nullptr;
      f->block = block;
      f->linear = t;
      f->thread = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
      fibers.push_back(f);
    }
  }
  if (state.seed == 1) std::reverse(fibers.begin(), fibers.end());
  if (state.seed > 1) std::shuffle(fibers.begin(), fibers.end(), random);
  size_t left = fibers.size();
  for (int idle = 0; left > 0;) {
    state.progress = false;
    bool ran = false;
    for (Fiber* f : fibers) {
      if (f->done || (f->waiting && f->waiting->generation == f->generation)) continue;
      run_fiber(f);
      ran = true;
      left -= f->done;
    }
    state.current = nullptr;
    idle = state.progress ? 0 : idle + 1;
    if (ran && idle < 1000) continue;  // threads that spin give others their turn; not for ever
    for (Fiber* f : fibers)
      if (!f->done && f->waiting) {
        size_t ended = 0;
        for (Fiber* other : fibers) ended += other->done;
        state.current = f;
        fail("waits for ever at " + f->what + "; " + std::to_string(ended) +
             " threads of its cluster have ended");
      }
    if (left) fail("threads spin for ever");
  }
}

}  // namespace cuda_emulator
