// Vectors of one instruction set; part of simd.h.

constexpr int64_t kLanes = SIMD_BYTES / 4;
typedef float Floats __attribute__((vector_size(SIMD_BYTES)));
typedef int32_t Ints __attribute__((vector_size(SIMD_BYTES)));
typedef uint32_t Words __attribute__((vector_size(SIMD_BYTES)));
typedef uint16_t Shorts __attribute__((vector_size(SIMD_BYTES / 2)));

SIMD_INLINE Floats splat(float value) { return Floats{} + value; }

// Value where the mask (a comparison of Floats) is true, else other.
SIMD_INLINE Floats where(Ints mask, Floats value, Floats other) { return mask ? value : other; }

// Keeps NaN.
SIMD_INLINE Floats relu(Floats v) { return v < 0.0f ? Floats{} : v; }

// The maximum; v where v is NaN.
SIMD_INLINE Floats at_least(Floats floor, Floats v) {
#if SIMD_BYTES == 64
  return (Floats)_mm512_maskz_max_ps(-1, (__m512)floor, (__m512)v);
#elif SIMD_BYTES == 32
  return (Floats)_mm256_max_ps((__m256)floor, (__m256)v);
#elif SIMD_X86
  return (Floats)_mm_max_ps((__m128)floor, (__m128)v);
#else
  return v < floor ? floor : v;
#endif
}

SIMD_INLINE float sum(Floats v) {
#if SIMD_BYTES == 64
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
#elif SIMD_BYTES == 32
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
#else
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
#endif
  return v[0] + v[1];
}

SIMD_INLINE Floats from_bits(Words bits) {
  Floats v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

SIMD_INLINE Words to_bits(Floats v) {
  Words bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

SIMD_INLINE Floats widen(Shorts s, BFloat16) {
  return from_bits(__builtin_convertvector(s, Words) << 16);
}

// Rounds to nearest, ties to even; keeps NaN.
SIMD_INLINE Words round_to_high_half(Floats v) {
  const Words bits = to_bits(v);
  return v == v ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
}
#if SIMD_PASS == 3
// The instruction treats denormal numbers as 0.
SIMD_INLINE Shorts narrow(Floats v, BFloat16) { return (Shorts)_mm512_cvtneps_pbh((__m512)v); }
#else
SIMD_INLINE Shorts narrow(Floats v, BFloat16) {
  return __builtin_convertvector(round_to_high_half(v) >> 16, Shorts);
}
#endif

#if SIMD_BYTES == 64
SIMD_INLINE Floats widen(Shorts s, Half) { return (Floats)_mm512_maskz_cvtph_ps(-1, (__m256i)s); }
SIMD_INLINE Shorts narrow(Floats v, Half) {
  return (Shorts)_mm512_maskz_cvtps_ph(-1, (__m512)v,
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif SIMD_BYTES == 32
SIMD_INLINE Floats widen(Shorts s, Half) { return (Floats)_mm256_cvtph_ps((__m128i)s); }
SIMD_INLINE Shorts narrow(Floats v, Half) {
  return (Shorts)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__aarch64__)
SIMD_INLINE Floats widen(Shorts s, Half) { return (Floats)vcvt_f32_f16((float16x4_t)s); }
SIMD_INLINE Shorts narrow(Floats v, Half) { return (Shorts)vcvt_f16_f32((float32x4_t)v); }
#else
SIMD_INLINE Floats widen(Shorts s, Half) {
  const Words half = __builtin_convertvector(s, Words);
  const Words magnitude = (half & 0x7fff) << 13;
  const Words finite =
      to_bits(from_bits(magnitude) * 0x1p112f);  // moves the exponent, denormal numbers included
  const Words special = magnitude | 0x7f800000;
  return from_bits(((half & 0x8000) << 16) | (magnitude >= 0x0f800000 ? special : finite));
}
SIMD_INLINE Shorts narrow(Floats v, Half) {
  const Words bits = to_bits(v);
  const Words magnitude = bits & 0x7fffffff;
  const Words normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Words denormal = to_bits(from_bits(magnitude) + 0.5f) -
                         0x3f000000;  // the sum rounds at the last place of a denormal half
  const Words special =
      magnitude > 0x7f800000 ? ((magnitude >> 13) & 0x3ff) | 0x7e00 : 0x7c00 + Words{};
  const Words small = magnitude < 0x38800000 ? denormal : normal;
  return __builtin_convertvector(
      ((bits >> 16) & 0x8000) | (magnitude >= 0x47800000 ? special : small), Shorts);
}
#endif

SIMD_INLINE Floats load(const float* from) {
  Floats v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

SIMD_INLINE void store(float* to, Floats v) { __builtin_memcpy(to, &v, sizeof v); }

template <typename T>
SIMD_INLINE Floats load(const T* from) {
  Shorts s;
  __builtin_memcpy(&s, from, sizeof s);
  return widen(s, T());
}

template <typename T>
SIMD_INLINE void store(T* to, Floats v) {
  const Shorts s = narrow(v, T());
  __builtin_memcpy(to, &s, sizeof s);
}

// Loads the first count < kLanes elements; the other lanes are 0.
template <typename T>
SIMD_INLINE Floats load_part(const T* from, int64_t count) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(buffer + i, from + i, sizeof(T));
  return load(buffer);
}

SIMD_INLINE float load_one(const float* from) { return *from; }
SIMD_INLINE float load_one(const BFloat16* from) {
  uint16_t half;
  __builtin_memcpy(&half, from, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
SIMD_INLINE float load_one(const Half* from) { return load_part(from, 1)[0]; }

template <typename T>
SIMD_INLINE void store_part(T* to, Floats v, int64_t count) {
  T buffer[kLanes];
  store(buffer, v);
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i, buffer + i, sizeof(T));
}

// 2 * kLanes elements in an internal order: for bfloat16 even and odd elements, which a shift and a
// mask convert to float.
struct Twin {
  Floats first, second;
};

template <typename T>
SIMD_INLINE Twin load2(const T* from) {
  return {load(from), load(from + kLanes)};
}
SIMD_INLINE Twin load2(const BFloat16* from) {
  Words words;
  __builtin_memcpy(&words, from, sizeof words);
  return {from_bits(words << 16), from_bits(words & 0xffff0000)};
}

SIMD_INLINE Words narrow2(Twin v) {
#if SIMD_PASS == 3
  // All elements of the first, then of the second: interleave them.
  const Words halves = (Words)_mm512_cvtne2ps_pbh((__m512)v.second, (__m512)v.first);
  Words order;
  for (uint32_t i = 0; i < kLanes; ++i) order[i] = i | (i + kLanes) << 16;
  return (Words)_mm512_permutexvar_epi16((__m512i)order, (__m512i)halves);
#else
  return (round_to_high_half(v.first) >> 16) | (round_to_high_half(v.second) & 0xffff0000);
#endif
}

template <typename T>
SIMD_INLINE void store2(T* to, Twin v) {
  store(to, v.first);
  store(to + kLanes, v.second);
}
SIMD_INLINE void store2(BFloat16* to, Twin v) {
  const Words words = narrow2(v);
  __builtin_memcpy(to, &words, sizeof words);
}

// Rounds to the precision of T.
SIMD_INLINE Floats round_to(Floats v, float) { return v; }
template <typename T>
SIMD_INLINE Floats round_to(Floats v, T) {
  return widen(narrow(v, T()), T());
}
template <typename T>
SIMD_INLINE Twin round_to2(Twin v, T) {
  return {round_to(v.first, T()), round_to(v.second, T())};
}
SIMD_INLINE Twin round_to2(Twin v, BFloat16) {
  const Words words = narrow2(v);
  return {from_bits(words << 16), from_bits(words & 0xffff0000)};
}

// 0xffffffff in the first count lanes, else 0.
SIMD_INLINE Ints first_lanes(int64_t count) {
  Ints mask;
  for (int32_t i = 0; i < kLanes; ++i) mask[i] = i < count ? -1 : 0;
  return mask;
}

// The first lanes of a vector, as a count and as a mask.
struct Tail {
  int64_t count;
  Ints mask;
};

SIMD_INLINE Tail tail_of(int64_t count) { return {count, first_lanes(count)}; }

// Loads these lanes; the others are 0. Memory of the others is not read.
SIMD_INLINE Floats load_tail(const float* from, const Tail& tail) {
#if SIMD_BYTES == 64
  return (Floats)_mm512_maskz_loadu_ps(_mm512_movepi32_mask((__m512i)tail.mask), from);
#elif SIMD_BYTES == 32
  return (Floats)_mm256_maskload_ps(from, (__m256i)tail.mask);
#else
  return load_part(from, tail.count);
#endif
}

SIMD_INLINE void store_tail(float* to, Floats v, const Tail& tail) {
#if SIMD_BYTES == 64
  _mm512_mask_storeu_ps(to, _mm512_movepi32_mask((__m512i)tail.mask), (__m512)v);
#elif SIMD_BYTES == 32
  _mm256_maskstore_ps(to, (__m256i)tail.mask, (__m256)v);
#else
  store_part(to, v, tail.count);
#endif
}

// Stores past the caches values that are not read soon. `to` is aligned to the size of the vector;
// call stream_end() before another thread reads.
template <typename T>
SIMD_INLINE void stream(T* to, Floats v) {
#if SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_stream_ps(reinterpret_cast<float*>(to), (__m512)v);
  } else {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)narrow(v, T()));
  }
#elif SIMD_BYTES == 32
  if constexpr (sizeof(T) == 4) {
    _mm256_stream_ps(reinterpret_cast<float*>(to), (__m256)v);
  } else {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)narrow(v, T()));
  }
#else
  store(to, v);
#endif
}

template <typename T>
SIMD_INLINE void stream2(T* to, Twin v) {
  stream(to, v.first);
  stream(to + kLanes, v.second);
}
SIMD_INLINE void stream2(BFloat16* to, Twin v) {
  stream(reinterpret_cast<float*>(to), from_bits(narrow2(v)));
}

SIMD_INLINE void stream_end() {
#if SIMD_X86
  _mm_sfence();
#endif
}
