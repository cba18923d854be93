// A part of cuda_on_cpu.h: the emulator's side of ptx_interface.h, and how tests bring translated kernels in.
#pragma once

namespace cuda_on_cpu {

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
    [](uint32_t mask, uint32_t value, int source, int line) { return shuffle(mask, value, source, "shfl.sync", line); },
    [](uint32_t mask, bool predicate, int line) { return uint32_t(ballot(mask, predicate, "a warp's barrier or vote", line)); },
    [](uint32_t mask, uint64_t value, uint64_t* of_lanes, int line) {
      const std::vector<uint64_t> all = gather(mask, value, at_line("a warp's exchange", line));
      std::copy(all.begin(), all.end(), of_lanes);
    },
    [] { state.progress = true; },
    [](const char* message) { fail(message); },
};

}  // namespace cuda_on_cpu

extern "C" {
inline __attribute__((used)) const void* cuda_on_cpu_ptx_services() { return &cuda_on_cpu::ptx_services; }
// From now on launches of `kernel`, the address of a C++ function, run `function`.
inline __attribute__((used)) void cuda_on_cpu_use_ptx(const void* kernel, cuda_on_cpu::PtxFunction function, int64_t version) {
  cuda_on_cpu::ptx_kernels[kernel] = {function, int(version)};
}
// Launches that ran translated PTX, so far.
inline __attribute__((used)) int64_t cuda_on_cpu_ptx_launches() { return cuda_on_cpu::ptx_launches; }
// Launches a translated kernel that has no C++ function; null, or a message. grid: x, y, z.
inline __attribute__((used)) const char* cuda_on_cpu_launch_ptx(
    cuda_on_cpu::PtxFunction function, const int64_t* grid, int64_t threads, int64_t shared_bytes, const void* const* parameters) {
  using namespace cuda_on_cpu;
  return message_of([&] {
    const void* key = reinterpret_cast<const void*>(function);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2]));
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = size_t(shared_bytes);
    state.attributes[key][cudaFuncAttributeMaxDynamicSharedMemorySize] = devices[state.device].shared_per_block;
    ++ptx_launches;
    if (launch(&config, key, 0, [=] { function(parameters); }) != cudaSuccess) throw std::runtime_error(state.error);
  });
}
}
