// The runtime of the C++ written by ptx_translate.py: registers as bits, and arithmetic as defined
// by PTX.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "ptx_interface.h"

static const cuda_emulator::PtxServices* services;
extern "C" __attribute__((visibility("default"))) void ptx_attach(
    const cuda_emulator::PtxServices* emulator) {
  services = emulator;
}

namespace {

// ---- registers

// The bits of a register, or the low bits that the type has.
template <class T, class S>
inline T as(S bits) {
  if constexpr (std::is_same_v<T, S>)
    return bits;
  else if constexpr (std::is_same_v<T, bool> || std::is_same_v<S, bool>)
    return T(bits);
  else if constexpr (sizeof(T) == sizeof(S))
    return std::bit_cast<T>(bits);
  else {
    static_assert(std::is_integral_v<T> && std::is_integral_v<S>, "a register of another width");
    return T(bits);
  }
}

// Writes a register; a wider one is extended by the sign of the type of the value.
template <class R, class V>
inline void set(R& reg, V value) {
  reg = as<R>(value);
}

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};

// ---- integers

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Twice =
    std::conditional_t<sizeof(T) == 8,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                       std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;

template <class T>
inline T add(T a, T b) {
  return T(Unsigned<T>(a) + Unsigned<T>(b));
}
template <>
inline float add(float a, float b) {
  return a + b;
}
template <>
inline double add(double a, double b) {
  return a + b;
}
template <class T>
inline T subtract(T a, T b) {
  return T(Unsigned<T>(a) - Unsigned<T>(b));
}
template <>
inline float subtract(float a, float b) {
  return a - b;
}
template <>
inline double subtract(double a, double b) {
  return a - b;
}
template <class T>
inline T multiply(T a, T b) {
  return T(Unsigned<T>(a) * uint64_t(Unsigned<T>(b)));
}
template <>
inline float multiply(float a, float b) {
  return a * b;
}
template <>
inline double multiply(double a, double b) {
  return a * b;
}
template <class T>
inline T multiply_high(T a, T b) {
  return T(Twice<T>(a) * Twice<T>(b) >> 8 * sizeof(T));
}
template <class T>
inline T divide(T a, T b) {
  return b == 0 ? T(-1) : b == T(-1) && std::is_signed_v<T> ? subtract(T(0), a) : T(a / b);
}
template <>
inline float divide(float a, float b) {
  return a / b;
}
template <>
inline double divide(double a, double b) {
  return a / b;
}
template <class T>
inline T remainder(T a, T b) {
  return b == 0 ? a : b == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b);
}

// A shift by at least the width gives 0, or the sign.
template <class T>
inline T shift_left(T a, uint32_t by) {
  return by >= 8 * sizeof(T) ? T(0) : T(Unsigned<T>(a) << by);
}
template <class T>
inline T shift_right(T a, uint32_t by) {
  return by >= 8 * sizeof(T) ? T(std::is_signed_v<T> && a < 0 ? -1 : 0) : T(a >> by);
}

inline uint32_t funnel_shift(bool left, bool wrap, uint32_t low, uint32_t high, uint32_t by) {
  by = wrap ? by & 31 : std::min(by, 32u);
  const uint64_t both = uint64_t(high) << 32 | low;
  return left ? uint32_t(both << by >> 32) : uint32_t(both >> by);
}

template <class T>
inline T bit_field(T a, uint32_t first, uint32_t count) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  first &= 255, count &= 255;
  if (count == 0) return 0;
  const T from_first = shift_right(a, first);
  return count >= kWidth ? from_first
                         : T(shift_left(from_first, kWidth - count) >> (kWidth - count));
}

inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  const uint64_t both = uint64_t(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> 4 * i & 15;
    uint32_t byte = uint32_t(both >> 8 * (selector & 7)) & 255;
    if (selector & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

// Returns any function of three bits: bit 4a + 2b + c of `table`.
inline uint32_t three_inputs(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}

// ---- floats

// Returns the number of a number and NaN, unless NaN is requested; -0 is less than 0.
template <class T>
inline T minimum(T a, T b, bool keeps_nan) {
  if (a != a || b != b) return keeps_nan ? std::bit_cast<T>(0x7fffffffu) : a != a ? b : a;
  return b < a || (a == b && std::signbit(b)) ? b : a;
}
template <class T>
inline T maximum(T a, T b, bool keeps_nan) {
  if (a != a || b != b) return keeps_nan ? std::bit_cast<T>(0x7fffffffu) : a != a ? b : a;
  return b > a || (a == b && std::signbit(a)) ? b : a;
}

inline uint16_t to_bfloat16(float value) {  // to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return value != value ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
inline uint16_t to_half(float value) {
  return value != value ? 0x7fff : std::bit_cast<uint16_t>(_Float16(value));
}
inline float from_half(uint16_t bits) { return float(std::bit_cast<_Float16>(bits)); }

// Converts to the nearest integer of the type; NaN becomes 0.
template <class T>
inline T to_integer(float rounded) {
  const double value = rounded;
  constexpr double kMost = double(std::numeric_limits<T>::max()),
                   kLeast = double(std::numeric_limits<T>::min());
  return value != value    ? T(0)
         : value >= kMost  ? std::numeric_limits<T>::max()
         : value <= kLeast ? std::numeric_limits<T>::min()
                           : T(value);
}

// ---- memory and other threads

template <class T>
inline T& memory(uint64_t address) {
  if (address % alignof(T)) services->fail("misaligned access");
  return *reinterpret_cast<T*>(address);
}

// Atomic, because threads switch only where they wait.
template <class T, class F>
inline T atomic(uint64_t address, F change) {
  T& at = memory<T>(address);
  const T old = at;
  at = change(old);
  if (at != old) services->made_progress();
  return old;
}

// Returns the value of `source`, or the own value of the thread if `source` is outside of the warp;
// `found` says which.
inline uint32_t shuffle(uint32_t mask, uint32_t value, int source, int line, bool& found) {
  found = source >= 0 && source < 32;
  return services->shuffle(mask, value, found ? source : int(services->lane()), line);
}

template <class T, class F>
inline T reduce_warp(uint32_t mask, T value, F both, int line) {
  uint64_t all[32];
  services->gather(mask, uint64_t(Unsigned<T>(value)), all, line);
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && i != int(services->lane())) value = both(value, T(all[i]));
  return value;
}

// ldmatrix and stmatrix: lane 8 i + r has the address of row r of matrix i; lane l returns, or
// takes, two neighbours of row l / 4 or, if transposed, of column l / 4.
struct MatrixRows {
  uint64_t rows[32];

  MatrixRows(uint64_t address, int line) {
    if (address % 16) services->fail("misaligned access");
    services->gather(0xffffffffu, address, rows, line);
  }
  uint16_t& at(int matrix, bool transposed, int k) const {
    const unsigned first = services->lane() / 4, second = services->lane() % 4 * 2 + k;
    return memory<uint16_t>(rows[8 * matrix + (transposed ? second : first)] +
                            2 * (transposed ? first : second));
  }
  uint32_t load(int matrix, bool transposed) const {
    return at(matrix, transposed, 0) | uint32_t(at(matrix, transposed, 1)) << 16;
  }
  void store(int matrix, bool transposed, uint32_t both) const {
    at(matrix, transposed, 0) = uint16_t(both);
    at(matrix, transposed, 1) = uint16_t(both >> 16);
  }
};

}  // namespace
