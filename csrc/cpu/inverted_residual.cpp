// Inverted residual block on the CPU, for inference. Formula and the layout of weights:
// kernels/talkinghead_kernels/inverted_residual.py; schemas: extension.py in the same folder.
//
// The widened map, two to four times the block's input, is never held in full: a task widens,
// filters and narrows a band of rows of one image while they are in its caches. Bands overlap by
// the rows that the filter reaches beyond them, which are widened twice. Every output is summed in
// the same order for any division into bands, so results do not depend on the number of threads.
#include "channels_last.h"

#include <algorithm>

namespace talkinghead {
namespace {

constexpr int64_t kCache = 96 * 1024;  // floats of a widened band that stay in the caches
constexpr int64_t kGrain = 1 << 18;    // minimum number of multiplications per thread

struct Problem {
  const float *x, *widen, *widen_bias, *filter, *filter_bias, *narrow, *narrow_bias;
  float* y;
  int64_t batch, inputs, height, width;
  int64_t wide, kernel, stride;
  int64_t outputs, height_out, width_out;
  bool adds_input;
};

struct Kernels {
  int64_t (*widened_size)(const Problem&, int64_t rows);
  int64_t (*scratch_size)(const Problem&, int64_t rows);
  void (*run)(const Problem&, int64_t sample, int64_t begin, int64_t end, float* scratch);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/inverted_residual.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "inverted_residual_block.inl"

constexpr Kernels kKernels = {widened_size, scratch_size, run};

#else

namespace talkinghead {
namespace {

// Checks what would read or write out of bounds; Python has checked the rest.
const float* matrix(const Tensor& tensor, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  "inverted_residual: weights must be contiguous, float32 and agree in size");
  return static_cast<const float*>(tensor.data_ptr());
}

const float* vector(const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == size &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  "inverted_residual: biases must be contiguous, float32 and agree in size");
  return static_cast<const float*>(tensor.data_ptr());
}

Problem problem_of(const Tensor& x, const Tensor& widen, const Tensor& widen_bias,
                   const Tensor& filter, const Tensor& filter_bias, const Tensor& narrow,
                   const Tensor& narrow_bias, int64_t stride, bool adds_input, const Tensor& y) {
  STD_TORCH_CHECK(is_channels_last(x) && is_channels_last(y),
                  "inverted_residual: maps must be float32 [B, C, H, W] in channels_last");
  STD_TORCH_CHECK(widen.dim() == 2 && widen.size(1) > 0 && filter.dim() == 2,
                  "inverted_residual: weights must have two dimensions and not be empty");
  Problem p = {};
  p.batch = x.size(0);
  p.inputs = x.size(1);
  p.height = x.size(2);
  p.width = x.size(3);
  p.wide = widen.size(1);
  p.kernel = filter.size(0) == 9 ? 3 : 5;
  p.stride = stride;
  p.outputs = y.size(1);
  p.height_out = y.size(2);
  p.width_out = y.size(3);
  p.adds_input = adds_input;
  STD_TORCH_CHECK(
      stride > 0 && y.size(0) == p.batch && p.height_out == (p.height + stride - 1) / stride &&
          p.width_out == (p.width + stride - 1) / stride &&
          (!adds_input || (stride == 1 && p.inputs == p.outputs)),
      "inverted_residual: y must be [B, out, H / stride, W / stride], like x if x is added");
  p.x = static_cast<const float*>(x.data_ptr());
  p.y = static_cast<float*>(y.data_ptr());
  p.widen = matrix(widen, p.inputs, p.wide);
  p.widen_bias = vector(widen_bias, p.wide);
  p.filter = matrix(filter, p.kernel * p.kernel, p.wide);
  p.filter_bias = vector(filter_bias, p.wide);
  p.narrow = matrix(narrow, p.wide, p.outputs);
  p.narrow_bias = vector(narrow_bias, p.outputs);
  return p;
}

void inverted_residual_forward(const Tensor& x, const Tensor& widen, const Tensor& widen_bias,
                               const Tensor& filter, const Tensor& filter_bias,
                               const Tensor& narrow, const Tensor& narrow_bias, int64_t stride,
                               bool adds_input, Tensor y) {
  const Problem p = problem_of(x, widen, widen_bias, filter, filter_bias, narrow, narrow_bias,
                               stride, adds_input, y);
  if (p.batch * p.height_out * p.width_out == 0) return;
  const Kernels& kernels = *SIMD_BEST(kKernels);
  const int64_t threads = torch::stable::get_num_threads();
  // as many bands as fill the threads, and more where a band would not fit into the caches
  int64_t bands = p.batch < threads ? (threads + p.batch - 1) / p.batch : 1;
  bands = std::min(bands, p.height_out);
  while (bands < p.height_out &&
         kernels.widened_size(p, (p.height_out + bands - 1) / bands) > kCache)
    ++bands;
  const int64_t rows = (p.height_out + bands - 1) / bands;
  const int64_t pixels = p.height_out * p.width_out / bands;
  const int64_t work =
      std::max<int64_t>(1, p.wide * pixels * (p.inputs + p.kernel * p.kernel + p.outputs));
  torch::stable::parallel_for(0, p.batch * bands, std::max<int64_t>(1, kGrain / work),
                              [&](int64_t begin, int64_t end) {
                                const Lines scratch(kernels.scratch_size(p, rows));
                                for (int64_t i = begin; i < end; ++i) {
                                  const int64_t band = i % bands;
                                  kernels.run(p, i / bands, p.height_out * band / bands,
                                              p.height_out * (band + 1) / bands, scratch.start);
                                }
                              });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("inverted_residual_forward", TORCH_BOX(&talkinghead::inverted_residual_forward));
}

#endif
