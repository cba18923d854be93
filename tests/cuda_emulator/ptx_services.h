// Part of cuda_emulator.h: the emulator's side of ptx_interface.h, and the registration of
// translated kernels by tests.
#pragma once

namespace cuda_emulator {

static const PtxServices ptx_services = {
    &threadIdx.x,
    &blockIdx.x,
    &blockDim.x,
    &gridDim.x,
    [] { return state.current->linear & 31; },
    [] { return state.current->block->rank; },
    [] { return state.cluster_size; },
    dynamic_shared,
    static_shared,
    map_shared,
    sync_threads,
    cluster_arrive,
    cluster_wait,
    [](uint32_t mask, uint32_t value, int source, int line) {
      return shuffle(mask, value, source, "shfl.sync", line);
    },
    [](uint32_t mask, bool predicate, int line) {
      return uint32_t(ballot(mask, predicate, "a warp's barrier or vote", line));
    },
    [](uint32_t mask, uint64_t value, uint64_t* of_lanes, int line) {
      const std::vector<uint64_t> all = gather(mask, value, at_line("a warp's exchange", line));
      std::copy(all.begin(), all.end(), of_lanes);
    },
    [] { state.progress = true; },
    [](const char* message) { fail(message); },
};

}  // namespace cuda_emulator

extern "C" {
inline __attribute__((used)) const void* cuda_emulator_ptx_services() {
  return &cuda_emulator::ptx_services;
}
// Makes launches of `kernel`, the address of a C++ function, run `function`.
inline __attribute__((used)) void cuda_emulator_use_ptx(const void* kernel,
                                                        cuda_emulator::PtxFunction function,
                                                        int64_t version) {
  cuda_emulator::ptx_kernels[kernel] = {function, int(version)};
}
// Returns the number of launches that ran translated PTX.
inline __attribute__((used)) int64_t cuda_emulator_ptx_launches() {
  return cuda_emulator::ptx_launches;
}
// Launches a translated kernel without a C++ function; returns null or a message. grid: x, y, z.
inline __attribute__((used)) const char* cuda_emulator_launch_ptx(
    cuda_emulator::PtxFunction function, const int64_t* grid, int64_t threads, int64_t shared_bytes,
    const void* const* parameters) {
  using namespace cuda_emulator;
  return message_of([&] {
    const void* key = reinterpret_cast<const void*>(function);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2]));
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = size_t(shared_bytes);
    state.attributes[key][cudaFuncAttributeMaxDynamicSharedMemorySize] =
        devices[state.device].shared_per_block;
    ++ptx_launches;
    if (launch(&config, key, 0, [=] { function(parameters); }) != cudaSuccess)
      throw std::runtime_error(state.error);
  });
}
}
