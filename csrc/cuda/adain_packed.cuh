// Elements of a tensor as cuda/adain.cu keeps them in registers.
#pragma once

#include <bit>
#include <type_traits>

#include "cuda_launch.h"

namespace talkinghead {

#ifdef CUDA_ON_CPU
inline float half_float(unsigned short bits) { return to_float(std::bit_cast<half>(bits)); }
template <class T>
unsigned word_of(float low, float high) {
  const auto bits = [](float value) {
    return unsigned(std::bit_cast<unsigned short>(from_float<T>(value)));
  };
  return bits(low) | bits(high) << 16;
}
#else
__device__ __forceinline__ float half_float(unsigned short bits) {
  return __half2float(__ushort_as_half(bits));
}
// two narrow elements, by one conversion
template <class T>
__device__ __forceinline__ unsigned word_of(float low, float high) {
  std::conditional_t<std::is_same_v<T, half>, __half2, __nv_bfloat162> pair;
  if constexpr (std::is_same_v<T, half>)
    pair = __floats2half2_rn(low, high);
  else
    pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const unsigned&>(pair);
}
#endif

// `Bytes` bytes of T, loaded or stored by one access whose address must be a multiple of Bytes.
// They are kept as words of two narrow elements each, so that they occupy no more registers than
// bytes.
template <class T, int Bytes>
struct Packed {
  static constexpr int size = Bytes / sizeof(T);
  unsigned words[Bytes < 4 ? 1 : Bytes / 4];

  __device__ __forceinline__ float operator[](int e) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(words[e]);
    } else if constexpr (std::is_same_v<T, bfloat16>) {
      return __uint_as_float(e % 2 ? words[e / 2] & 0xffff0000u : words[e / 2] << 16);
    } else {
      return half_float(static_cast<unsigned short>(words[e / 2] >> (e % 2 * 16)));
    }
  }

  // f(e) for every element, rounded to nearest, ties to even
  template <class F>
  __device__ __forceinline__ static Packed of(F f) {
    Packed pack;
#pragma unroll
    for (int e = 0; e < size; e += 4 / int(sizeof(T))) {
      if constexpr (sizeof(T) == 4)
        pack.words[e] = __float_as_uint(f(e));
      else
        pack.words[e / 2] = word_of<T>(f(e), size == 1 ? 0 : f(e + 1));
    }
    return pack;
  }

  // Loads the `index`-th pack from `from` through the read-only path; nothing in the same launch
  // may write there.
  __device__ __forceinline__ static Packed load(const T* from, int64_t index) {
    Packed pack;
    if constexpr (Bytes == 16) {
      const uint4 word = __ldg(reinterpret_cast<const uint4*>(from) + index);
      pack.words[0] = word.x, pack.words[1] = word.y, pack.words[2] = word.z,
      pack.words[3] = word.w;
    } else if constexpr (Bytes == 4) {
      pack.words[0] = __ldg(reinterpret_cast<const unsigned*>(from) + index);
    } else {
      pack.words[0] = __ldg(reinterpret_cast<const unsigned short*>(from) + index);
    }
    return pack;
  }

  __device__ __forceinline__ void store(T* to, int64_t index) const {
    if constexpr (Bytes == 16) {
      reinterpret_cast<uint4*>(to)[index] = make_uint4(words[0], words[1], words[2], words[3]);
    } else if constexpr (Bytes == 4) {
      reinterpret_cast<unsigned*>(to)[index] = words[0];
    } else {
      reinterpret_cast<unsigned short*>(to)[index] = static_cast<unsigned short>(words[0]);
    }
  }

  // Prevents the compiler from keeping unpacked elements, which would need twice the registers.
  __device__ __forceinline__ void forget() {
#ifndef CUDA_ON_CPU
#pragma unroll
    for (unsigned& word : words) asm volatile("" : "+r"(word));
#endif
  }
};

}  // namespace talkinghead
