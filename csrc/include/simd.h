// Compilation of a kernel source for several instruction sets, chosen at run time, so that one
// build runs on every CPU.
//
// A file includes its headers, then names itself and includes this header:
//
//   #include "torch_abi.h"
//   #define SIMD_FILE "cpu/scale.cpp"
//   #include "simd.h"
//
//   #ifdef SIMD_PASS  // compiled once for each instruction set, inside a namespace of its own
//   template <typename T>
//   void scale(const T* in, T* out, int64_t count, float factor) {
//     int64_t i = 0;
//     for (; i + kLanes <= count; i += kLanes) store(out + i, load(in + i) * factor);
//     if (i < count) store_part(out + i, load_part(in + i, count - i) * factor, count - i);
//   }
//   #else  // compiled once
//   void run(...) { SIMD_BEST(scale<float>)(in, out, count, factor); }
//   #endif
//
// Rules of the part under SIMD_PASS: every #include is above simd.h, except those of its own parts;
// no lambdas, which Clang compiles for the baseline; no inline functions or templates of other
// headers that access data (their single copy might be compiled for an instruction set that this
// CPU lacks). simd_vector.inl defines the vectors: Floats has kLanes floats, with the arithmetic
// and comparisons of GCC's vector extensions. T is float, BFloat16 or Half.
#ifndef SIMD_PASS

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && (defined(__clang__) || defined(__GNUC__))
#define SIMD_X86 1
#include <immintrin.h>
#else
#define SIMD_X86 0
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__clang__)
#define SIMD_PRAGMA(text) _Pragma(#text)
#define SIMD_ATTRIBUTE(set) \
  SIMD_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define SIMD_BEGIN(set) SIMD_ATTRIBUTE(set)
#define SIMD_END _Pragma("clang attribute pop")
#else
#define SIMD_PRAGMA(text) _Pragma(#text)
#define SIMD_BEGIN(set) _Pragma("GCC push_options") SIMD_PRAGMA(GCC target(set))
#define SIMD_END _Pragma("GCC pop_options")
#endif
#define SIMD_INLINE inline __attribute__((always_inline))

namespace talkinghead {
namespace {

// 0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 with conversion to bfloat16. The environment variable
// ATEN_CPU_CAPABILITY lowers the level, as for torch's kernels.
inline int simd_level() {
#if SIMD_X86
  static const int level = [] {
    const char* requested = std::getenv("ATEN_CPU_CAPABILITY");
    const bool no_avx512 =
        requested && (!std::strcmp(requested, "avx2") || !std::strcmp(requested, "default"));
    const bool no_avx2 = requested && !std::strcmp(requested, "default");
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (no_avx2 || !avx2) return 0;
    if (no_avx512 || !avx512) return 1;
    const bool no_bf16 = requested && !std::strcmp(requested, "avx512");
    return no_bf16 || !__builtin_cpu_supports("avx512bf16") ? 2 : 3;
  }();
  return level;
#else
  return 0;
#endif
}

template <typename F>
F* simd_select([[maybe_unused]] F* avx512_bf16, [[maybe_unused]] F* avx512,
               [[maybe_unused]] F* avx2, F* baseline) {
#if SIMD_X86
  if (simd_level() == 3) return avx512_bf16;
  if (simd_level() == 2) return avx512;
  if (simd_level() == 1) return avx2;
#endif
  return baseline;
}

}  // namespace
}  // namespace talkinghead

#if SIMD_X86
#define SIMD_BEST(...)                                                             \
  simd_select(&avx512_bf16::__VA_ARGS__, &avx512::__VA_ARGS__, &avx2::__VA_ARGS__, \
              &baseline::__VA_ARGS__)
#else
#define SIMD_BEST(...)                                                                \
  simd_select(&baseline::__VA_ARGS__, &baseline::__VA_ARGS__, &baseline::__VA_ARGS__, \
              &baseline::__VA_ARGS__)
#endif

#define SIMD_PASS 0
#define SIMD_BYTES 16
namespace talkinghead {
namespace {
namespace baseline {
#include SIMD_FILE
}  // namespace baseline
}  // namespace
}  // namespace talkinghead
#undef SIMD_PASS
#undef SIMD_BYTES

#if SIMD_X86
#define SIMD_PASS 1
#define SIMD_BYTES 32
SIMD_BEGIN("avx2,fma,f16c")
namespace talkinghead {
namespace {
namespace avx2 {
#include SIMD_FILE
}  // namespace avx2
}  // namespace
}  // namespace talkinghead
SIMD_END
#undef SIMD_PASS
#undef SIMD_BYTES

#define SIMD_PASS 2
#define SIMD_BYTES 64
SIMD_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace talkinghead {
namespace {
namespace avx512 {
#include SIMD_FILE
}  // namespace avx512
}  // namespace
}  // namespace talkinghead
SIMD_END
#undef SIMD_PASS
#undef SIMD_BYTES

#define SIMD_PASS 3
#define SIMD_BYTES 64
SIMD_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace talkinghead {
namespace {
namespace avx512_bf16 {
#include SIMD_FILE
}  // namespace avx512_bf16
}  // namespace
}  // namespace talkinghead
SIMD_END
#undef SIMD_PASS
#undef SIMD_BYTES
#endif

#else  // SIMD_PASS: SIMD_FILE is included again, inside the namespace of an instruction set
#include "simd_vector.inl"
#endif  // SIMD_PASS
