// The interface between translated PTX and the emulator. Translated PTX is a separate library that
// includes no other file of the emulator, so that it compiles fast; the emulator passes it these
// functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

struct PtxServices {
  const unsigned *thread, *block, *block_size,
      *grid_size;  // x, y, z: %tid, %ctaid, %ntid, %nctaid of the running thread
  unsigned (*lane)();
  unsigned (*cluster_rank)();
  unsigned (*cluster_size)();
  void* (*dynamic_shared)();
  void* (*static_shared)(const void* key, size_t bytes);
  void* (*map_shared)(const void* pointer, unsigned rank);
  void (*sync_threads)(int line);  // lines are those of the PTX
  void (*cluster_arrive)(int line);
  void (*cluster_wait)(int line);
  uint32_t (*shuffle)(uint32_t mask, uint32_t value, int source, int line);
  uint32_t (*ballot)(uint32_t mask, bool predicate, int line);
  void (*gather)(uint32_t mask, uint64_t value, uint64_t* of_lanes, int line);
  void (*made_progress)();  // memory that another thread may wait for has changed
  void (*fail)(const char* message);
};

using PtxFunction =
    void (*)(const void* const* parameters);  // a kernel; the address of each parameter

}  // namespace cuda_emulator
