// What the CPU kernels of channels_last float32 maps share: scratch memory and checks.
#pragma once

#include "torch_abi.h"

#include <memory>

namespace talkinghead {
namespace {

constexpr int64_t kLine = 16;  // floats of a cache line

// Rounds up to a multiple.
constexpr int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

// Floats that start at a cache line.
struct Lines {
  explicit Lines(int64_t size) : memory(new float[size + kLine]) {
    const auto address = reinterpret_cast<uintptr_t>(memory.get());
    start = reinterpret_cast<float*>((address + 63) / 64 * 64);
  }
  const std::unique_ptr<float[]> memory;
  float* start;
};

// Returns whether a map is float32 [B, C, H, W] without gaps in channels_last.
inline bool is_channels_last(const Tensor& map) {
  bool fits = map.dim() == 4 && map.scalar_type() == ScalarType::Float;
  int64_t stride = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    fits = fits && (map.size(dim) == 1 || map.stride(dim) == stride);
    if (fits) stride *= map.size(dim);
  }
  return fits;
}

}  // namespace
}  // namespace talkinghead
