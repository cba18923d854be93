// A CUDA device on the CPU that can run the .cu files of csrc/ without a GPU: included before the
// source, which g++ then compiles as C++. Each CUDA thread is a fiber; the blocks of a cluster (or
// of a cooperative launch) are resident together, other blocks run in sequence in shuffled order.
// Everything runs in one thread of the operating system, so that runs are reproducible.
//
// It is strict where a GPU is silent. Reported as an error, with the thread and the block:
//  - a barrier or a warp exchange that some thread of its mask never reaches, or reaches at another
//  line;
//  - an access past the end of dynamic shared memory, of a buffer from `cuda_emulator_allocate`, or
//  misaligned for its type;
//  - shared memory of another block of the cluster before a cluster barrier has shown that it runs,
//  or after it has ended;
//  - a launch beyond the device's limits, or above 48 KB of shared memory without the attribute
//  that allows it.
// Shared memory starts as NaN. The order of threads and blocks depends on `cuda_emulator_schedule`:
// a missing barrier that one order hides, another shows.
#pragma once

#define CUDA_ON_CPU 1

#include "fibers.h"
#include "ptx_interface.h"

namespace cuda_emulator {

// Kernels that run as PTX compiled by nvcc, by the address of the C++ function.
struct PtxKernel {
  PtxFunction function;
  int version;  // of the virtual architecture, 10 times major plus minor
};
static std::map<const void*, PtxKernel> ptx_kernels;
static int64_t ptx_launches = 0;

inline cudaError_t refuse(const std::string& why) {
  state.error = "cuda_emulator: launch refused: " + why;
  return cudaErrorInvalidConfiguration;
}

inline cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel,
                          size_t parameter_bytes, std::function<void()> body) {
  const Properties& device = devices[state.device];
  auto& attributes = state.attributes[kernel];
  unsigned cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& a = config->attrs[i];
    if (a.id == cudaLaunchAttributeClusterDimension) {
      cluster = a.val.clusterDim.x;
      if (a.val.clusterDim.y != 1 || a.val.clusterDim.z != 1)
        return refuse("only clusters along x are emulated");
      if (device.major < 9) return refuse("no clusters before sm_90");
    } else {
      cooperative = a.val.cooperative;
    }
  }
  const dim3 grid = config->gridDim, block = config->blockDim;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z,
                 blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || block.z > 64)
    return refuse(std::to_string(threads) + " threads a block");
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return refuse("grid size");
  if (cluster == 0 || grid.x % cluster) return refuse("the grid is no multiple of the cluster");
  if (cluster > 16 || (cluster > 8 && !attributes[cudaFuncAttributeNonPortableClusterSizeAllowed]))
    return refuse("cluster size");
  const size_t shared = config->dynamicSmemBytes;
  const auto allowed = attributes.find(cudaFuncAttributeMaxDynamicSharedMemorySize);
  if (shared > size_t(allowed == attributes.end() ? 48 << 10 : std::max(48 << 10, allowed->second)))
    return refuse(std::to_string(shared) + " bytes of shared memory not allowed for this kernel");
  if (parameter_bytes > 32764) return refuse("kernel parameters");
  if (cooperative && blocks > uint64_t(device.multiprocessors) * (2048 / threads))
    return refuse("cooperative grid too large");

  char text[200];
  std::snprintf(text, sizeof text, "grid %u %u %u block %u %u %u cluster %u shared %zu%s", grid.x,
                grid.y, grid.z, block.x, block.y, block.z, cluster, shared,
                cooperative ? " cooperative" : "");
  state.launches.push_back(text);

  ::gridDim = grid;
  ::blockDim = block;
  state.cluster_size = cluster;
  state.dynamic_shared = shared;
  state.body = std::move(body);
  const unsigned together = cooperative ? unsigned(blocks) : cluster;
  state.resident.clear();
  for (unsigned i = 0; i < together; ++i) {
    auto b = std::make_unique<Block>();
    const size_t usable = (shared + 15) / 16 * 16, room = (usable + kPage - 1) / kPage * kPage;
    b->page_bytes = room;
    auto* pages = static_cast<unsigned char*>(
        mmap(nullptr, room + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    b->pages = pages + kPage;
    b->shared = b->pages + room - usable;
    state.resident.push_back(std::move(b));
  }
  std::vector<unsigned> order(blocks / together);
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  std::mt19937_64 random(state.seed + 12345);
  std::shuffle(order.begin(), order.end(), random);

  struct sigaction action = {}, before[3];
  const int signals[3] = {SIGSEGV, SIGBUS, SIGILL};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  for (int i = 0; i < 3; ++i) sigaction(signals[i], &action, &before[i]);
  volatile cudaError_t result = cudaSuccess;
  if (!sigsetjmp(state.failure, 1)) {
    for (unsigned i : order) run_resident(i * together, together, random);
  } else {
    for (auto& f : state.pool) f->entered = false;  // abandoned in the middle of the kernel
    result = cudaErrorLaunchFailure;
  }
  for (int i = 0; i < 3; ++i) sigaction(signals[i], &before[i], nullptr);
  state.current = nullptr;
  for (auto& b : state.resident) munmap(b->pages - kPage, b->page_bytes + 2 * kPage);
  state.resident.clear();
  return result;
}

// Runs `f`, and returns null or the message of its exception. For the entry points of a library
// under test.
template <class F>
const char* message_of(F f) {
  static std::string message;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace cuda_emulator

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               A&&... arguments) {
  const void* key = reinterpret_cast<const void*>(kernel);
  std::tuple<std::decay_t<P>...> held(std::forward<A>(arguments)...);
  const auto ptx = cuda_emulator::ptx_kernels.find(key);
  if (ptx == cuda_emulator::ptx_kernels.end())
    return cuda_emulator::launch(config, key, sizeof held,
                                 [kernel, held] { std::apply(kernel, held); });
  ++cuda_emulator::ptx_launches;
  return cuda_emulator::launch(config, key, sizeof held, [run = ptx->second.function, held] {
    std::apply(
        [run](const auto&... each) {
          const void* const addresses[] = {&each...};
          run(addresses);
        },
        held);
  });
}
// C++ code is treated as compiled for the device itself.
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const auto& d = cuda_emulator::devices[cuda_emulator::state.device];
  const auto ptx = cuda_emulator::ptx_kernels.find(kernel);
  attributes->binaryVersion = 10 * d.major + d.minor;
  attributes->ptxVersion =
      ptx == cuda_emulator::ptx_kernels.end() ? attributes->binaryVersion : ptx->second.version;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  return *device = cuda_emulator::state.device, cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const auto& d = cuda_emulator::devices[device];
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = d.shared_per_block;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = d.shared_per_multiprocessor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = d.l2;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.minor;
      break;
    case cudaDevAttrClusterLaunch:
      *value = d.major >= 9;
      break;
  }
  return cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute attribute, int value) {
  using namespace cuda_emulator;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
      value > devices[state.device].shared_per_block) {
    state.error = "cuda_emulator: " + std::to_string(value) +
                  " bytes of shared memory are more than the device has";
    return cudaErrorInvalidValue;
  }
  state.attributes[reinterpret_cast<const void*>(kernel)][attribute] = value;
  return cudaSuccess;
}
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F*, int threads,
                                                          size_t shared) {
  const auto& d = cuda_emulator::devices[cuda_emulator::state.device];
  *blocks = std::min({2048 / threads, 32, int(d.shared_per_multiprocessor / (shared + 1024))});
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return cuda_emulator::state.error.c_str(); }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return std::memset(p, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}

#include "device_functions.h"
#include "ptx_services.h"

// ---- for the tests
extern "C" {
// 0: sm_80, 1: sm_90, 2: sm_120
inline __attribute__((used)) void cuda_emulator_device(int device) {
  cuda_emulator::state.device = device;
}
// 0: threads in order; 1: backwards; more: shuffled. Blocks are shuffled by it always.
inline __attribute__((used)) void cuda_emulator_schedule(uint64_t seed) {
  cuda_emulator::state.seed = seed;
}
// Memory filled with NaN whose end, up to `alignment`, is followed by an inaccessible page.
inline __attribute__((used)) void* cuda_emulator_allocate(size_t bytes, size_t alignment) {
  using namespace cuda_emulator;
  const size_t used = (bytes + alignment - 1) / alignment * alignment,
               room = (used + kPage - 1) / kPage * kPage + kPage;
  auto* p = static_cast<unsigned char*>(
      mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(p, 0xff, room - kPage);
  mprotect(p + room - kPage, kPage, PROT_NONE);
  state.allocations.emplace_back(p, room);
  return p + room - kPage - used;
}
inline __attribute__((used)) void cuda_emulator_free_all() {
  for (auto [p, bytes] : cuda_emulator::state.allocations) munmap(p, bytes);
  cuda_emulator::state.allocations.clear();
}
// Returns one line for each launch since the last call.
inline __attribute__((used)) const char* cuda_emulator_launches() {
  static std::string text;
  text.clear();
  for (const auto& line : cuda_emulator::state.launches) text += line + "\n";
  cuda_emulator::state.launches.clear();
  return text.c_str();
}
}
