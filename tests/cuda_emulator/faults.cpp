// Kernels that are right, and kernels with one fault each, to see that the emulator tells them
// apart.
#include "cuda_launch.h"

namespace talkinghead {
namespace {

// out[0..blocks): the sum of 0..255 by every way of talking to other threads; `fault` breaks one
__global__ void sums(float* out, int fault) {
  TALKINGHEAD_DYNAMIC_SHARED(memory);
  TALKINGHEAD_SHARED(float, warps, 8);
  float* incoming = reinterpret_cast<float*>(memory);  // one of each block of the cluster
  const unsigned thread = threadIdx.x;
  if (fault == 2 && thread == 77) return;
  cluster_arrive();
  if (fault == 1 && thread == 77) return;
  float value = float(thread);
  if (fault != 3 || (thread & 31) != 5) value = warp_sum(value);
  if (thread % 32 == 0) warps[thread / 32] = value;
  if (fault == 4) {
    if (thread < 128)
      __syncthreads();
    else
      __syncthreads();
  } else if (fault != 5) {
    __syncthreads();
  }
  float block = 0;
  for (int i = 0; i < 8; ++i) block += warps[i];
  if (fault == 6) incoming[cluster_size() + thread * 4] = 0;
  if (fault == 7) *reinterpret_cast<float4*>(incoming + 1) = make_float4(0, 0, 0, 0);
  if (fault == 8 && thread == 0) out[gridDim.x + 64] = 0;
  if (fault == 9 && thread == 0)
    *cluster_shared(incoming, (cluster_rank() + 1) % cluster_size()) = 0;
  cluster_wait();
  if (thread < cluster_size()) cluster_shared(incoming, thread)[cluster_rank()] = block;
  cluster_sync();
  float total = 0;
  for (unsigned i = 0; i < cluster_size(); ++i)
    total += fault == 10 ? *cluster_shared(incoming, i) : incoming[i];
  if (thread == 0) out[blockIdx.x] = total / cluster_size();
  if (fault == 11 && thread == 0)
    while (atomicAdd(reinterpret_cast<int*>(out), 0) != 12345) __nanosleep(20);
}

// all blocks resident together: each waits for the others
__global__ void grid_barrier(int* arrived, float* out) {
  if (threadIdx.x == 0) {
    atomicAdd(arrived, 1);
    while (*const_cast<volatile int*>(arrived) < int(gridDim.x)) __nanosleep(20);
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = float(*arrived);
}

}  // namespace
}  // namespace talkinghead

extern "C" const char* run_sums(float* out, int64_t blocks, int64_t cluster, int64_t shared,
                                int64_t fault) {
  using namespace talkinghead;
  return cuda_emulator::message_of([&] {
    launch("sums", {dim3(unsigned(blocks)), dim3(256), size_t(shared), unsigned(cluster)}, nullptr,
           sums, out, int(fault));
  });
}

extern "C" const char* run_grid_barrier(int* arrived, float* out, int64_t blocks,
                                        int64_t cooperative) {
  using namespace talkinghead;
  return cuda_emulator::message_of([&] {
    launch("grid", {dim3(unsigned(blocks)), dim3(64), 0, 1, cooperative != 0}, nullptr,
           grid_barrier, arrived, out);
  });
}
