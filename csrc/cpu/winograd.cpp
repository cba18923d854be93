// 3x3 convolution by Winograd's F(4x4, 3x3) on the CPU. Formula, interpolation points and the
// layout of weights: kernels/talkinghead_kernels/winograd.py; schemas: extension.py in the same
// folder.
//
// A task computes all three steps for a block of tiles and a part of the output channels: tiles of
// 6x6 inputs to 36 numbers per channel, a product of matrices for each of the 36, and back to 4x4
// outputs. Intermediate results fit into the caches, and weights are read once per block. Every
// output is summed in the same order for any division into tasks, so results do not depend on the
// number of threads.
#include "channels_last.h"

#include <algorithm>

namespace talkinghead {
namespace {

constexpr int64_t kTile = 4;   // side of a tile of outputs
constexpr int64_t kPatch = 6;  // side of a tile of inputs
constexpr int64_t kPlaces = kPatch * kPatch;
constexpr int64_t kPanel = 32;       // columns of a panel of weights
constexpr int64_t kGrain = 1 << 19;  // minimum number of multiplications per thread

struct Problem {
  const float *x, *weight, *bias;  // bias may be null
  float* y;
  int64_t batch, inputs, outputs, height, width;
  float low, high;
  int64_t down, across;  // tiles of an image
  int64_t part;          // output channels per task, complete panels
  const float* zeros;    // a pixel outside the image

  int64_t tiles() const { return batch * down * across; }
};

struct Kernels {
  int64_t rows;  // maximum number of tiles multiplied at once
  int64_t (*scratch_size)(const Problem&, int64_t tiles);
  void (*run)(const Problem&, int64_t begin, int64_t end, int64_t part, float* scratch);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/winograd.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "winograd_tiles.inl"

constexpr Kernels kKernels = {kRows, scratch_size, run};

#else

namespace talkinghead {
namespace {

void winograd_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      double low, double high, Tensor y) {
  // Checks what would read or write out of bounds; Python has checked the rest.
  STD_TORCH_CHECK(is_channels_last(x) && is_channels_last(y),
                  "winograd: maps must be float32 [B, C, H, W] in channels_last");
  Problem p = {};
  p.batch = x.size(0);
  p.inputs = x.size(1);
  p.height = x.size(2);
  p.width = x.size(3);
  p.outputs = y.size(1);
  STD_TORCH_CHECK(
      p.inputs > 0 && p.outputs > 0 && y.size(0) == p.batch && y.size(2) == p.height &&
          y.size(3) == p.width && weight.dim() == 3 && weight.size(0) == kPlaces &&
          weight.size(1) == p.inputs && weight.size(2) == p.outputs &&
          weight.scalar_type() == ScalarType::Float && weight.is_contiguous(),
      "winograd: weight must be float32 [36, in, out], contiguous and not empty, y [B, out, H, W]");
  p.x = static_cast<const float*>(x.data_ptr());
  p.weight = static_cast<const float*>(weight.data_ptr());
  p.y = static_cast<float*>(y.data_ptr());
  p.low = static_cast<float>(low);
  p.high = static_cast<float>(high);
  p.down = (p.height + kTile - 1) / kTile;
  p.across = (p.width + kTile - 1) / kTile;
  const Lines zeros(whole(p.inputs, kLine));
  std::fill_n(zeros.start, whole(p.inputs, kLine), 0.0f);
  p.zeros = zeros.start;
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == p.outputs &&
                        bias->scalar_type() == ScalarType::Float && bias->is_contiguous(),
                    "winograd: bias must be float32 [out] and contiguous");
    p.bias = static_cast<const float*>(bias->data_ptr());
  }

  const Kernels& kernels = *SIMD_BEST(kKernels);
  // More weights need more tiles per block, otherwise they would be read too often. Threads divide
  // the output channels, so that none reads all weights, or else the tiles.
  const int64_t tiles = p.tiles(), threads = torch::stable::get_num_threads();
  const int64_t groups = std::clamp<int64_t>((kPlaces * p.inputs * p.outputs) >> 18, 2, 8);
  const int64_t panels = (p.outputs + kPanel - 1) / kPanel;
  int64_t blocks = (tiles + groups * kernels.rows - 1) / (groups * kernels.rows), parts = 1;
  if (panels % threads) blocks = std::min(whole(blocks, threads), tiles);
  while (parts < panels && blocks * parts % threads && blocks * parts < 4 * threads) ++parts;
  p.part = (panels + parts - 1) / parts * kPanel;
  parts = (p.outputs + p.part - 1) / p.part;
  blocks = std::max(blocks, std::min(tiles, threads / parts));
  const int64_t tasks = blocks * parts;
  const int64_t work = kPlaces * p.inputs * p.outputs * tiles / std::max<int64_t>(1, tasks);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    const Lines scratch(kernels.scratch_size(p, (tiles + blocks - 1) / blocks));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i % blocks;
      kernels.run(p, tiles * block / blocks, tiles * (block + 1) / blocks, i / blocks * p.part,
                  scratch.start);
    }
  });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("winograd_forward", TORCH_BOX(&talkinghead::winograd_forward));
}

#endif
