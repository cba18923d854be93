// Shared functions of the .cu files: launches, limits of the device, the current stream, and
// reductions over warps and clusters.
//
// Two rules allow the files to run on a CPU (tests/cuda_emulator): every launch goes through
// `launch`, and shared memory is declared by TALKINGHEAD_SHARED or TALKINGHEAD_DYNAMIC_SHARED.
// Functions that choose grids take raw pointers and sizes; code that needs torch is inside #ifndef
// CUDA_ON_CPU.
#pragma once

#ifdef CUDA_ON_CPU
#define TALKINGHEAD_SHARED(type, name, count)             \
  static char name##_key;                                 \
  type(&name)[count] = *reinterpret_cast<type(*)[count]>( \
      cuda_emulator::static_shared(&name##_key, sizeof(type) * (count)))
#define TALKINGHEAD_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(cuda_emulator::dynamic_shared())
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "torch_abi.h"
// type name[count] in static shared memory
#define TALKINGHEAD_SHARED(type, name, count) __shared__ type name[count]
// unsigned char name[], aligned to 16: the dynamic shared memory of the launch
#define TALKINGHEAD_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Weak, so that the library also loads with a torch without CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);
#endif

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

namespace talkinghead {

using bfloat16 = __nv_bfloat16;
using half = __half;

// ---- host --------------------------------------------------------------------------------------

// Throws an error of one line with the op, the call and the message of CUDA.
inline void check_cuda(cudaError_t status, const char* op, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear the error, so that the next call does not report it
  std::string message = std::string(op) + ": " + call + ": " + cudaGetErrorString(status);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion)
    message += "; build the kernels for this GPU, with its architecture in TORCH_CUDA_ARCH_LIST";
  throw std::runtime_error(message);
}

struct Device {
  int multiprocessors, shared_bytes, l2_bytes;  // shared_bytes: maximum of a block
  bool clusters;  // of the hardware; `uses_clusters` returns whether a kernel can use them
};

// Returns the limits of the current device, queried once.
inline Device current_device(const char* op) {
  constexpr int kDevices = 64;
  static Device known[kDevices] = {};
  int index = 0;
  check_cuda(cudaGetDevice(&index), op, "cudaGetDevice");
  Device device = index < kDevices ? known[index] : Device{};
  if (device.multiprocessors > 0) return device;
  const auto ask = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, attribute, index), op, "cudaDeviceGetAttribute");
    return value;
  };
  device = {ask(cudaDevAttrMultiProcessorCount), ask(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            ask(cudaDevAttrL2CacheSize), ask(cudaDevAttrClusterLaunch) != 0};
  if (index < kDevices) known[index] = device;
  return device;
}

constexpr int kClusterCode = 90;  // code of kernels that uses clusters, as `compiled_for` gives it

// Returns the value of __CUDA_ARCH__ / 10 when the code of `kernel` that runs on the current device
// was compiled. A device newer than all machine code in the library runs the newest PTX, which may
// be much older than the device.
inline int compiled_for(const char* op, const void* kernel) {
  static thread_local std::map<std::pair<int, const void*>, int> known;
  int device = 0;
  check_cuda(cudaGetDevice(&device), op, "cudaGetDevice");
  int& version = known[{device, kernel}];
  if (version == 0) {
    cudaFuncAttributes attributes = {};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), op, "cudaFuncGetAttributes");
    version = attributes.ptxVersion;
  }
  return version;
}

// Returns whether both the current device and the code of `kernel` have clusters.
inline bool uses_clusters(const char* op, const void* kernel) {
  return current_device(op).clusters && compiled_for(op, kernel) >= kClusterCode;
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;   // dynamic
  unsigned cluster = 1;      // blocks of a cluster, along x
  bool cooperative = false;  // all blocks resident together
};

template <class... Parameters, class... Arguments>
void launch(const char* op, const LaunchShape& shape, cudaStream_t stream,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  // Otherwise its barriers would be those of a block, and results would be wrong without an error.
  if (shape.cluster > 1 && !uses_clusters(op, reinterpret_cast<const void*>(kernel)))
    throw std::runtime_error(std::string(op) +
                             ": launched in clusters, which the device or the kernel's code lacks");
  constexpr size_t kUnasked = 48 << 10;  // available to every kernel without a request
  if (shape.shared_bytes > kUnasked) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(shape.shared_bytes)),
               op, "cudaFuncSetAttribute");
  }
  if (shape.cluster > 8) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), op,
               "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  if (shape.cooperative) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count++].val.cooperative = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), op,
             "launch");
}

#ifndef CUDA_ON_CPU
// Returns the stream on which torch runs work of this device.
inline cudaStream_t current_stream(int32_t device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream, "torch was built without CUDA");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

// ---- device ------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ float to_float(T value);
template <>
__device__ __forceinline__ float to_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ float to_float(bfloat16 value) {
  return __bfloat162float(value);
}
template <>
__device__ __forceinline__ float to_float(half value) {
  return __half2float(value);
}

// to nearest, ties to even
template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ bfloat16 from_float(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ half from_float(float value) {
  return __float2half_rn(value);
}

// `Bytes` bytes of T, moved by one access: the address must be a multiple of Bytes.
template <class T, int Bytes>
struct alignas(Bytes) Pack {
  static constexpr int size = Bytes / sizeof(T);
  T values[size];
};

template <int Bytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<2> {
  using type = unsigned short;
};

// Loads through the read-only path; nothing in the same launch may write there.
template <class T, int Bytes>
__device__ __forceinline__ Pack<T, Bytes> load(const Pack<T, Bytes>* from) {
  using Raw = typename Word<Bytes>::type;
  union {
    Raw raw;
    Pack<T, Bytes> pack;
  } moved;
  moved.raw = __ldg(reinterpret_cast<const Raw*>(from));
  return moved.pack;
}

// Sums over all 32 lanes that differ in the bits from `first` up: 1 is the complete warp, 4 keeps
// lanes 0 to 3 separate. Every lane gets the sum.
__device__ __forceinline__ float warp_sum(float value, int first = 1) {
  for (int offset = 16; offset >= first; offset >>= 1)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The number of blocks of a cluster. In code compiled for less than sm_90 a block is its own
// cluster, on every device; host code calls `uses_clusters`.
#if defined(CUDA_ON_CPU) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ unsigned cluster_rank() { return __clusterRelativeBlockRank(); }
__device__ __forceinline__ unsigned cluster_size() { return __clusterSizeInBlocks(); }
__device__ __forceinline__ void cluster_arrive() { __cluster_barrier_arrive(); }
__device__ __forceinline__ void cluster_wait() { __cluster_barrier_wait(); }
// Returns the address, in the dynamic shared memory of block `rank`, that corresponds to `own` in
// this block. That block must have started and must not have ended: use a cluster barrier before
// and after the access.
template <class T>
__device__ __forceinline__ T* cluster_shared(T* own, unsigned rank) {
  return static_cast<T*>(__cluster_map_shared_rank(own, rank));
}
#else
__device__ __forceinline__ unsigned cluster_rank() { return 0; }
__device__ __forceinline__ unsigned cluster_size() { return 1; }
__device__ __forceinline__ void cluster_arrive() {}
__device__ __forceinline__ void cluster_wait() { __syncthreads(); }
template <class T>
__device__ __forceinline__ T* cluster_shared(T* own, unsigned) {
  return own;
}
#endif

// Barrier of all threads of the cluster; their earlier writes, also to shared memory, are visible
// after it.
__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

}  // namespace talkinghead
