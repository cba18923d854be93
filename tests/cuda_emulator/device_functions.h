// Part of cuda_emulator.h: the functions that kernels call.
#pragma once

#define __syncthreads() cuda_emulator::sync_threads(__LINE__)
#define __syncthreads_count(p) cuda_emulator::sync_threads_count(p, __LINE__)
#define __syncthreads_or(p) (cuda_emulator::sync_threads_count(p, __LINE__) != 0)
#define __syncthreads_and(p) (cuda_emulator::sync_threads_count(!(p), __LINE__) == 0)
#define __syncwarp(...) \
  cuda_emulator::ballot(cuda_emulator::mask_or_all(__VA_ARGS__), true, "__syncwarp", __LINE__)
#define __ballot_sync(mask, p) cuda_emulator::ballot(mask, p, "__ballot_sync", __LINE__)
#define __any_sync(mask, p) (cuda_emulator::ballot(mask, p, "__any_sync", __LINE__) != 0)
#define __all_sync(mask, p) (cuda_emulator::ballot(mask, p, "__all_sync", __LINE__) == (mask))
#define __shfl_sync(mask, v, lane) \
  cuda_emulator::shuffle(mask, v, (lane) & 31, "__shfl_sync", __LINE__)
#define __shfl_xor_sync(mask, v, offset) \
  cuda_emulator::shuffle(mask, v, cuda_emulator::lane() ^ (offset), "__shfl_xor_sync", __LINE__)
#define __shfl_down_sync(mask, v, offset)                                                     \
  cuda_emulator::shuffle(mask, v, cuda_emulator::within(cuda_emulator::lane() + int(offset)), \
                         "__shfl_down_sync", __LINE__)
#define __shfl_up_sync(mask, v, offset)                                                       \
  cuda_emulator::shuffle(mask, v, cuda_emulator::within(cuda_emulator::lane() - int(offset)), \
                         "__shfl_up_sync", __LINE__)
#define __reduce_add_sync(mask, v) \
  cuda_emulator::reduce(mask, v, [](auto a, auto b) { return a + b; }, __LINE__)
#define __reduce_max_sync(mask, v) \
  cuda_emulator::reduce(mask, v, [](auto a, auto b) { return a > b ? a : b; }, __LINE__)
#define __reduce_min_sync(mask, v) \
  cuda_emulator::reduce(mask, v, [](auto a, auto b) { return a < b ? a : b; }, __LINE__)
#define __cluster_barrier_arrive() cuda_emulator::cluster_arrive(__LINE__)
#define __cluster_barrier_wait() cuda_emulator::cluster_wait(__LINE__)
namespace cuda_emulator {
inline unsigned mask_or_all(unsigned mask = ~0u) { return mask; }
inline int lane() { return int(state.current->linear & 31); }
inline int within(int source) { return source < 0 || source > 31 ? lane() : source; }
}  // namespace cuda_emulator
inline void* __cluster_map_shared_rank(const void* p, unsigned rank) {
  return cuda_emulator::map_shared(p, rank);
}
inline unsigned __clusterRelativeBlockRank() { return cuda_emulator::state.current->block->rank; }
inline unsigned __clusterSizeInBlocks() { return cuda_emulator::state.cluster_size; }
inline void __nanosleep(unsigned) { cuda_emulator::to_scheduler(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
void __stcg(T* p, T v) {
  *p = v;
}

// An atomic operation of another block is progress for a thread that spins.
template <class T, class F>
T cuda_emulator_atomic(T* p, F f) {
  const T old = *p;
  *p = f(old);
  cuda_emulator::state.progress |= *p != old;
  return old;
}
template <class T>
T atomicAdd(T* p, T v) {
  return cuda_emulator_atomic(p, [v](T old) { return T(old + v); });
}
template <class T>
T atomicExch(T* p, T v) {
  return cuda_emulator_atomic(p, [v](T) { return v; });
}
template <class T>
T atomicMax(T* p, T v) {
  return cuda_emulator_atomic(p, [v](T old) { return std::max(old, v); });
}
template <class T>
T atomicMin(T* p, T v) {
  return cuda_emulator_atomic(p, [v](T old) { return std::min(old, v); });
}
template <class T>
T atomicCAS(T* p, T expected, T v) {
  return cuda_emulator_atomic(p, [=](T old) { return old == expected ? v : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return cuda_emulator_atomic(p, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}

inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float v) { return 1 / v; }
inline float __fsqrt_rn(float v) { return std::sqrt(v); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float v) { return v > 0 ? std::min(v, 1.f) : 0; }
inline unsigned __float_as_uint(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline int __float_as_int(float f) { return int(__float_as_uint(f)); }
inline float __int_as_float(int i) { return __uint_as_float(unsigned(i)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
using std::max;
using std::min;
