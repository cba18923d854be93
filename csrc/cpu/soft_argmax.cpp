// Mean of the votes of cells on the CPU. Formula: kernels/talkinghead_kernels/soft_argmax.py;
// schemas: extension.py in the same folder.
//
// A lane is a point: the channels of a cell are adjacent in memory. A task is a vector of points of
// one sample; it passes over the cells twice, for the largest logarithm and for the sums.
#include "channels_last.h"

#include <algorithm>

namespace talkinghead {
namespace {

constexpr int64_t kGrain = 1 << 12;  // minimum number of votes per thread

struct Problem {
  const float *votes, *around;  // around: [B, P, 2], or null
  float* points;                // [B, P, 2]
  int64_t batch, count, height, width;
  float narrowness;  // of the prior: its logarithm is -narrowness * distance^2
};

struct Kernels {
  int64_t lanes;
  void (*locate)(const Problem&, int64_t sample, int64_t first);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/soft_argmax.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "simd_exp.inl"

constexpr float kLog2OfE = 0x1.715476p+0f;

// Computes the points from `first` on of a sample, a vector of them.
void locate(const Problem& p, int64_t sample, int64_t first) {
  const bool in_part = p.count - first < kLanes;
  const Tail tail = tail_of(in_part ? p.count - first : kLanes);
  const int64_t step = 3 * p.count;
  const float* votes = p.votes + sample * p.height * p.width * step + first;
  Floats x = {}, y = {};
  for (int64_t i = 0; p.around && i < tail.count; ++i) {
    const float* around = p.around + (sample * p.count + first + i) * 2;
    x[i] = around[0];
    y[i] = around[1];
  }
  const float across = 1.0f / static_cast<float>(p.width);
  const float down = 1.0f / static_cast<float>(p.height);
  Floats largest = splat(-__builtin_inff());
  Floats total = {}, sum_x = {}, sum_y = {};
  for (int pass = 0; pass < 2; ++pass) {
    const float* cell = votes;
    for (int64_t row = 0; row < p.height; ++row) {
      const float centre_y = static_cast<float>(row) + 0.5f;
      const Floats from_y = y - centre_y * down;
      const Floats row_prior = from_y * from_y;
      for (int64_t column = 0; column < p.width; ++column, cell += step) {
        const float centre_x = static_cast<float>(column) + 0.5f;
        Floats weight = load_tail(cell, tail);
        if (p.around) {
          const Floats from_x = x - centre_x * across;
          weight = weight - (row_prior + from_x * from_x) * p.narrowness;
        }
        if (pass == 0) {
          largest = at_least(weight, largest);
          continue;
        }
        weight = power_of_two<5>((weight - largest) * kLog2OfE);
        total += weight;
        sum_x += weight * (load_tail(cell + p.count, tail) + centre_x);
        sum_y += weight * (load_tail(cell + 2 * p.count, tail) + centre_y);
      }
    }
  }
  const Floats result_x = sum_x / total * across, result_y = sum_y / total * down;
  float* to = p.points + (sample * p.count + first) * 2;
  for (int64_t i = 0; i < tail.count; ++i) {
    to[2 * i] = result_x[i];
    to[2 * i + 1] = result_y[i];
  }
}

constexpr Kernels kKernels = {kLanes, locate};

#else

namespace talkinghead {
namespace {

void soft_argmax(const Tensor& votes, const std::optional<Tensor>& around, double reach,
                 Tensor points) {
  Problem p = {};
  p.batch = votes.size(0);
  p.height = votes.size(2);
  p.width = votes.size(3);
  p.count = points.size(1);
  const auto is_map = [&p](const Tensor& map) {
    return map.dim() == 3 && map.size(0) == p.batch && map.size(1) == p.count && map.size(2) == 2 &&
           map.scalar_type() == ScalarType::Float && map.is_contiguous();
  };
  STD_TORCH_CHECK(is_channels_last(votes) && votes.size(1) == 3 * p.count,
                  "soft_argmax: votes must be float32 [B, 3 P, H, W] in channels_last");
  STD_TORCH_CHECK(is_map(points) && (!around || is_map(*around)),
                  "soft_argmax: points must be contiguous float32 [B, P, 2]");
  if (votes.numel() == 0) return;
  p.votes = static_cast<const float*>(votes.data_ptr());
  p.around = around ? static_cast<const float*>(around->data_ptr()) : nullptr;
  p.points = static_cast<float*>(points.data_ptr());
  p.narrowness = static_cast<float>(0.5 / (reach * reach));
  const auto& kernels = *SIMD_BEST(kKernels);
  const int64_t vectors = (p.count + kernels.lanes - 1) / kernels.lanes;
  const int64_t work = std::max<int64_t>(1, p.height * p.width);
  torch::stable::parallel_for(0, p.batch * vectors, std::max<int64_t>(1, kGrain / work),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i)
                                  kernels.locate(p, i / vectors, i % vectors * kernels.lanes);
                              });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("soft_argmax", TORCH_BOX(&talkinghead::soft_argmax));
}

#endif
