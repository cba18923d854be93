// Convolutions and inverted residual blocks in sequence on the CPU, for inference. Formulas and the
// layout of weights: kernels/talkinghead_kernels/{conv_sequence,inverted_residual}.py; schemas:
// extension.py in the same folder.
//
// A thread takes one image through all layers, whose maps stay in its caches; where there are fewer
// images than threads, they share the rows of each layer. The widened map of a block, two to four
// times its input, is never held in full where it is large: a task widens, filters and narrows a
// band of rows. Bands overlap by the rows that the filter reaches beyond them, which are widened
// twice. Every output is summed in the same order for any division into bands, so results do not
// depend on the number of threads.
#include "channels_last.h"

#include <algorithm>

namespace talkinghead {
namespace {

constexpr int64_t kCache = 96 * 1024;  // floats of a widened band that stay in the caches
constexpr int64_t kGrain = 1 << 18;    // minimum number of multiplications per thread

// A block, or a convolution, which has narrow's weights only.
struct Layer {
  const float *x, *widen, *widen_bias, *filter, *filter_bias, *narrow, *narrow_bias;
  float* y;
  int64_t inputs, height, width;
  int64_t wide, kernel, stride;  // wide is 0 for a convolution
  int64_t outputs, height_out, width_out;
  bool adds_input, has_relu;

  bool is_pointwise() const { return wide == 0 && kernel == 1; }
  int64_t input_size() const { return height * width * inputs; }
  int64_t output_size() const { return height_out * width_out * outputs; }
  // Multiplications per row of the output, about.
  int64_t work() const {
    const int64_t taps = kernel * kernel;
    return width_out * (wide ? wide * (inputs + taps + outputs) : taps * inputs * outputs);
  }
};

struct Kernels {
  int64_t (*widened_size)(const Layer&, int64_t rows);
  int64_t (*scratch_size)(const Layer&, int64_t rows);
  void (*run)(const Layer&, int64_t sample, int64_t begin, int64_t end, float* scratch);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/conv_sequence.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "conv_sequence_layers.inl"

constexpr Kernels kKernels = {widened_size, scratch_size, run};

#else

namespace talkinghead {
namespace {

// Checks what would read or write out of bounds; Python has checked the rest.
const float* matrix(const Tensor& tensor, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  "conv_sequence: weights must be contiguous, float32 and agree in size");
  return static_cast<const float*>(tensor.data_ptr());
}

const float* vector(const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == size &&
                      tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous(),
                  "conv_sequence: biases must be contiguous, float32 and agree in size");
  return static_cast<const float*>(tensor.data_ptr());
}

// Returns a layer whose input is of this size. `weights` are its own: two, or six of a block.
Layer layer_of(const Tensor* weights, bool is_block, const int64_t* numbers, int64_t inputs,
               int64_t height, int64_t width) {
  Layer p = {};
  p.inputs = inputs;
  p.height = height;
  p.width = width;
  p.kernel = numbers[0];
  p.stride = numbers[1];
  STD_TORCH_CHECK(p.kernel > 0 && p.kernel % 2 == 1 && p.stride > 0,
                  "conv_sequence: sides must be odd, and strides positive");
  p.height_out = (height + p.stride - 1) / p.stride;
  p.width_out = (width + p.stride - 1) / p.stride;
  const int64_t taps = p.kernel * p.kernel;
  const Tensor& last_bias = weights[is_block ? 5 : 1];
  STD_TORCH_CHECK(last_bias.dim() == 1, "conv_sequence: biases must have one dimension");
  p.outputs = last_bias.size(0);
  p.narrow_bias = vector(last_bias, p.outputs);
  if (is_block) {
    p.adds_input = numbers[2] != 0;
    p.wide = weights[1].dim() == 1 ? weights[1].size(0) : 0;
    STD_TORCH_CHECK(p.wide > 0, "conv_sequence: blocks must not be empty");
    STD_TORCH_CHECK(!p.adds_input || (p.stride == 1 && p.inputs == p.outputs),
                    "conv_sequence: the input of a block is added to an output of its shape only");
    p.widen = matrix(weights[0], inputs, p.wide);
    p.widen_bias = vector(weights[1], p.wide);
    p.filter = matrix(weights[2], taps, p.wide);
    p.filter_bias = vector(weights[3], p.wide);
    p.narrow = matrix(weights[4], p.wide, p.outputs);
  } else {
    p.has_relu = numbers[2] != 0;
    p.narrow = matrix(weights[0], taps * inputs, p.outputs);
  }
  return p;
}

// `numbers` has four for each layer: how many weights it has, the side of its kernel, its stride,
// and whether a block adds its input or a convolution has a ReLU.
std::vector<Layer> layers_of(const Tensor& x, const std::vector<Tensor>& weights,
                             const std::vector<int64_t>& numbers) {
  std::vector<Layer> layers;
  int64_t inputs = x.size(1), height = x.size(2), width = x.size(3);
  size_t used = 0;
  STD_TORCH_CHECK(numbers.size() % 4 == 0, "conv_sequence: a layer has four numbers");
  for (size_t i = 0; i < numbers.size(); i += 4) {
    const bool is_block = numbers[i] == 6;
    STD_TORCH_CHECK((is_block || numbers[i] == 2) && used + numbers[i] <= weights.size(),
                    "conv_sequence: a layer has two weights, a block six");
    layers.push_back(layer_of(&weights[used], is_block, &numbers[i + 1], inputs, height, width));
    used += numbers[i];
    inputs = layers.back().outputs;
    height = layers.back().height_out;
    width = layers.back().width_out;
  }
  return layers;
}

// Returns the number of bands of a layer's rows, `least` or more, that fit into the caches.
int64_t bands_of(const Kernels& kernels, const Layer& layer, int64_t least) {
  int64_t bands = std::min(least, layer.height_out);
  while (bands < layer.height_out &&
         kernels.widened_size(layer, (layer.height_out + bands - 1) / bands) > kCache)
    ++bands;
  return bands;
}

// Takes each image through all layers.
void run_by_image(const Kernels& kernels, const std::vector<Layer>& layers, const float* x,
                  float* y, int64_t batch) {
  int64_t map = 0, scratch = 0, work = 0;
  std::vector<int64_t> bands;
  for (const Layer& layer : layers) {
    bands.push_back(bands_of(kernels, layer, 1));
    map = std::max(map, whole(layer.output_size(), kLine));
    const int64_t rows = (layer.height_out + bands.back() - 1) / bands.back();
    scratch = std::max(scratch, kernels.scratch_size(layer, rows));
    work += layer.height_out * layer.work();
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work));
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    const Lines memory(2 * map + scratch);
    for (int64_t sample = begin; sample < end; ++sample) {
      const float* from = x + sample * layers.front().input_size();
      for (size_t i = 0; i < layers.size(); ++i) {
        Layer layer = layers[i];
        layer.x = from;
        layer.y = i + 1 < layers.size() ? memory.start + (i % 2 ? map : 0)
                                        : y + sample * layer.output_size();
        for (int64_t band = 0; band < bands[i]; ++band)
          kernels.run(layer, 0, layer.height_out * band / bands[i],
                      layer.height_out * (band + 1) / bands[i], memory.start + 2 * map);
        from = layer.y;
      }
    }
  });
}

// Runs a layer for all images, whose rows the threads share.
void run_by_rows(const Kernels& kernels, const Layer& layer, int64_t batch, int64_t threads) {
  const int64_t bands = bands_of(kernels, layer, (threads + batch - 1) / batch);
  const int64_t rows = (layer.height_out + bands - 1) / bands;
  const int64_t work = std::max<int64_t>(1, layer.work() * layer.height_out / bands);
  torch::stable::parallel_for(0, batch * bands, std::max<int64_t>(1, kGrain / work),
                              [&](int64_t begin, int64_t end) {
                                const Lines scratch(kernels.scratch_size(layer, rows));
                                for (int64_t i = begin; i < end; ++i) {
                                  const int64_t band = i % bands;
                                  kernels.run(layer, i / bands, layer.height_out * band / bands,
                                              layer.height_out * (band + 1) / bands, scratch.start);
                                }
                              });
}

void conv_sequence(const Tensor& x, const std::vector<Tensor>& weights,
                   std::vector<int64_t> numbers, Tensor y) {
  STD_TORCH_CHECK(is_channels_last(x) && is_channels_last(y),
                  "conv_sequence: maps must be float32 [B, C, H, W] in channels_last");
  std::vector<Layer> layers = layers_of(x, weights, numbers);
  STD_TORCH_CHECK(!layers.empty() && y.size(0) == x.size(0) && y.size(1) == layers.back().outputs &&
                      y.size(2) == layers.back().height_out && y.size(3) == layers.back().width_out,
                  "conv_sequence: y must be of the shape of the last layer's output");
  const int64_t batch = x.size(0);
  if (y.numel() == 0) return;
  const Kernels& kernels = *SIMD_BEST(kKernels);
  const int64_t threads = torch::stable::get_num_threads();
  const float* from = static_cast<const float*>(x.data_ptr());
  float* const last = static_cast<float*>(y.data_ptr());
  if (batch % threads == 0 || batch > 2 * threads)
    return run_by_image(kernels, layers, from, last, batch);
  int64_t map = 0;
  for (const Layer& layer : layers) map = std::max(map, whole(batch * layer.output_size(), kLine));
  const Lines memory(layers.size() > 1 ? 2 * map : 0);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].x = from;
    layers[i].y = i + 1 < layers.size() ? memory.start + (i % 2 ? map : 0) : last;
    run_by_rows(kernels, layers[i], batch, threads);
    from = layers[i].y;
  }
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("conv_sequence", TORCH_BOX(&talkinghead::conv_sequence));
}

#endif
