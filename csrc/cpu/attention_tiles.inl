// Part of cpu/attention.cpp, compiled once for each instruction set: arithmetic on words, packing,
// and the two products.

// ---- words: the operands of a lane of a product

// a float, converted from any dtype
struct Singles {
  static constexpr int64_t kPack = 1;
  static constexpr int kExactness = 5;

  static SIMD_INLINE Floats add_product(Floats sum, Floats lanes, const float* word) {
    return sum + lanes * (*word - Floats{});  // splat adds 0, which changes -0 to 0
  }
  // two rows of weights; returns the sum of the stored values
  static SIMD_INLINE Floats store_weights(float* to, Floats first, Floats second) {
    store(to, first);
    store(to + kLanes, second);
    return first + second;
  }
};

#if SIMD_PASS == 3
// two bfloat16, multiplied and added in one instruction
struct Pairs {
  static constexpr int64_t kPack = 2;
  static constexpr int kExactness = 4;

  static SIMD_INLINE Floats add_product(Floats sum, Floats lanes, const float* word) {
    int32_t bits;
    __builtin_memcpy(&bits, word, sizeof bits);
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)to_bits(lanes),
                                    (__m512bh)_mm512_set1_epi32(bits));
  }
  static SIMD_INLINE Floats store_weights(float* to, Floats first, Floats second) {
    const Words words = narrow2({first, second}), ones = Words{} + 0x3f803f80;
    __builtin_memcpy(to, &words, sizeof words);
    return (Floats)_mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)words, (__m512bh)ones);
  }
};
#endif

template <typename T>
struct WordsOf {
  using Type = Singles;
};
#if SIMD_PASS == 3
template <>
struct WordsOf<BFloat16> {
  using Type = Pairs;
};
#endif

template <typename T>
constexpr int64_t words_of(int64_t count) {
  return (count + WordsOf<T>::Type::kPack - 1) / WordsOf<T>::Type::kPack;
}

#include "simd_exp.inl"

// ---- packing; rows after the last repeat it

template <typename T>
SIMD_INLINE void to_words(const T* from, int64_t count, float* to) {
  if constexpr (WordsOf<T>::Type::kPack == 2) {
    if (count % 2) to[count / 2] = 0;
    __builtin_memcpy(to, from, count * sizeof(T));
  } else {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
    if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
  }
}

// Packs rows [begin, end) of a sample, each as words of its features.
template <typename T>
void pack_rows(const void* data, int64_t rows, int64_t features, int64_t begin, int64_t end,
               float* to) {
  const T* from = static_cast<const T*>(data);
  const int64_t words = words_of<T>(features);
  for (int64_t row = begin; row < end; ++row)
    to_words(from + (row < rows ? row : rows - 1) * features, features, to + row * words);
}

// Packs the same with kPack rows and one feature per word, and zeros up to a complete number of
// columns.
template <typename T>
void pack_columns(const void* data, int64_t rows, int64_t features, int64_t begin, int64_t end,
                  float* to) {
  const int64_t columns = whole(features, kColumns);
  for (int64_t row = begin; row < end; row += WordsOf<T>::Type::kPack) {
    const T* from = static_cast<const T*>(data) + (row < rows ? row : rows - 1) * features;
    float* words = to + row / WordsOf<T>::Type::kPack * columns;
    if constexpr (WordsOf<T>::Type::kPack == 2) {
      const T* next = row + 1 < rows ? from + features : from;
      for (int64_t column = 0; column < features; ++column) {
        uint16_t halves[2];
        __builtin_memcpy(halves, from + column, sizeof(T));
        __builtin_memcpy(halves + 1, next + column, sizeof(T));
        const uint32_t word = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
        __builtin_memcpy(words + column, &word, sizeof word);
      }
    } else {
      to_words(from, features, words);
    }
    for (int64_t column = features; column < columns; ++column) words[column] = 0;
  }
}

// kLanes packed rows, one per lane
SIMD_INLINE void to_lanes(const float* rows, int64_t words, float* lanes) {
  for (int64_t lane = 0; lane < kLanes; ++lane)
    for (int64_t word = 0; word < words; ++word)
      lanes[word * kLanes + lane] = rows[lane * words + word];
}

// Stores sums [features][kLanes], scaled, as the first count rows of a result.
template <typename T>
SIMD_INLINE void store_rows(float* sums, Floats scale, int64_t features, int64_t count, T* to,
                            float* row) {
  for (int64_t i = 0; i < features; ++i) store(sums + i * kLanes, load(sums + i * kLanes) * scale);
  for (int64_t lane = 0; lane < count; ++lane, to += features) {
    for (int64_t i = 0; i < features; ++i) row[i] = sums[i * kLanes + lane];
    int64_t i = 0;
    for (; i + kLanes <= features; i += kLanes) store(to + i, load(row + i));
    if (i < features) store_part(to + i, load_part(row + i, features - i), features - i);
  }
}

// ---- products

// Enough rows to hide the latency of an instruction, few enough for the registers.
constexpr int kProducts = SIMD_BYTES == 64 ? 16 : 8;

// scores[row] = start + (lanes . row) of `count` packed rows, rounded up to a complete tile. start
// is a value per lane or, if present, per row. Returns the largest score of each lane.
template <typename Type>
SIMD_INLINE Floats dot_products(const float* lanes, int64_t words, const float* rows, int64_t count,
                                Floats start, const float* row_start, float* scores) {
  Floats largest = splat(-__builtin_inff());
  for (int64_t row = 0; row < count; row += kProducts, rows += kProducts * words) {
    Floats sums[kProducts];
#pragma GCC unroll 16
    for (int i = 0; i < kProducts; ++i) sums[i] = row_start ? row_start[row + i] - Floats{} : start;
    for (int64_t word = 0; word < words; ++word) {
      const Floats lane = load(lanes + word * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kProducts; ++i)
        sums[i] = Type::add_product(sums[i], lane, rows + i * words + word);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kProducts; ++i) {
      largest = at_least(largest, sums[i]);
      store(scores + (row + i) * kLanes, sums[i]);
    }
  }
  return largest;
}

// sums[column] = scale * sums[column] + (weights of each word . the column) of kCount columns. The
// sum of a block is computed separately, because long sums lose precision.
template <typename Type, int kCount>
void mix_tile(const float* weights, int64_t words, const float* columns, int64_t stride,
              Floats scale, float* sums) {
  Floats mixed[kCount];
#pragma GCC unroll 24
  for (int i = 0; i < kCount; ++i) mixed[i] = Floats{};
  for (int64_t word = 0; word < words; ++word, columns += stride) {
    const Floats weight = load(weights + word * kLanes);
#pragma GCC unroll 24
    for (int i = 0; i < kCount; ++i) mixed[i] = Type::add_product(mixed[i], weight, columns + i);
  }
#pragma GCC unroll 24
  for (int i = 0; i < kCount; ++i)
    store(sums + i * kLanes, load(sums + i * kLanes) * scale + mixed[i]);
}

template <typename Type>
SIMD_INLINE void mix(const float* weights, int64_t words, const float* columns, int64_t count,
                     Floats scale, float* sums) {
  int64_t column = 0;
#if SIMD_BYTES == 64
  for (; column + 24 <= count; column += 24)
    mix_tile<Type, 24>(weights, words, columns + column, count, scale, sums + column * kLanes);
  if (column + 16 <= count) {
    mix_tile<Type, 16>(weights, words, columns + column, count, scale, sums + column * kLanes);
    column += 16;
  }
#endif
  for (; column < count; column += kColumns)
    mix_tile<Type, kColumns>(weights, words, columns + column, count, scale,
                             sums + column * kLanes);
}
