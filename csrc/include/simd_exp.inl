// The exponential of vectors. A part of sources under SIMD_PASS includes it.

// 2^t for t that is not much larger than 0; NaN for NaN. Polynomials approximate 2^f on [0, 1),
// exactly at 0: to 8e-8, or to 3e-6 where the result is rounded to bfloat16. For t below kLeast the
// result is 0, which does not change a sum that contains the 1 of the largest score: products with
// smaller numbers would be denormal, which some CPUs compute a hundred times slower.
constexpr float kLeast = -100.0f;

template <int kExactness>
SIMD_INLINE Floats power_of_two(Floats t) {
#if SIMD_BYTES == 64
  // t - floor(t), and 0 of infinities
  const Floats f = (Floats)_mm512_maskz_reduce_ps(-1, (__m512)t, 1);
#else
  const Ints tiny = t < kLeast;
  t = at_least(splat(kLeast), t);
  Ints whole = __builtin_convertvector(t, Ints);
  whole += __builtin_convertvector(whole, Floats) > t;  // a true comparison is -1
  const Floats f = t - __builtin_convertvector(whole, Floats);
#endif
  Floats power;
  if constexpr (kExactness == 5) {
    power = splat(0x1.e974fcp-10f) * f + 0x1.277854p-7f;
    power = power * f + 0x1.c91ce6p-5f;
    power = power * f + 0x1.ebdb56p-3f;
    power = power * f + 0x1.62e4bap-1f;
  } else {
    power = splat(0x1.b7f734p-7f) * f + 0x1.abf868p-5f;
    power = power * f + 0x1.ee2452p-3f;
    power = power * f + 0x1.62d6c6p-1f;
  }
  power = power * f + 1.0f;
#if SIMD_BYTES == 64
  const __mmask16 mask = _mm512_cmp_ps_mask((__m512)t, (__m512)splat(kLeast), _CMP_NLT_UQ);
  return (Floats)_mm512_maskz_scalef_ps(mask, (__m512)power, (__m512)t);  // by 2^floor(t)
#else
  return where(tiny, Floats{}, from_bits(to_bits(power) + ((Words)whole << 23)));
#endif
}
