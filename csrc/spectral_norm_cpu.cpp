// Spectral normalisation of all layers of a network in one call.
//
// A layer's matrix is cut into blocks of rows, the blocks of all layers form one work list, and threads take from it in order. What a
// block computes and the order in which blocks are summed depend on the shapes alone, so that results are equal bit for bit whatever
// the number of threads. Where a layer needs all of its matrix before the first element can be written (sigma, <dW_hat, W>), its blocks
// come twice, the second time last block first: what was read last is still in the cache.
#include "common.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <thread>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace talkinghead {
namespace {

enum Form : int64_t { kPlain, kUpsample, kUpsampleShuffle, kDownsample };

constexpr int64_t kTaps = 9, kFolded = 16;
constexpr int64_t kTile = 16;  // kernels that are folded together: floats of a cache line
constexpr int64_t kSuccessive[kFolded] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Where element (o, i, tap) of a weight's final form lies: o * step_o + i * step_i + offset[tap].
struct Layout {
  int64_t form;
  int64_t step_o, step_i, taps;
  int64_t offset[kFolded];
  bool lanes_are_outputs;  // the axis along which sixteen elements lie side by side, or else the one with the shorter step
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "spectral_norm_rows.h"
#include "simd.h"

namespace talkinghead {
namespace {

struct Layer {
  const float* weight;
  int64_t rows, columns, inputs;
  int64_t first_block, block_rows, blocks;
};

struct Item {
  int64_t layer, first, last;  // rows
  int64_t block;               // among the blocks of all layers
  enum Phase { kReduce, kWrite, kBoth } phase;
};

// A large tensor is often fresh memory, whose first touch costs more than the writing, page by page: huge pages take five hundred at once.
// Those at its two ends reach beyond it, mostly into the tensors beside it.
void expect_writes(const std::vector<Tensor>& tensors) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = 2 * 1024 * 1024;
  for (const Tensor& tensor : tensors) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    const uintptr_t bytes = tensor.numel() * tensor.element_size();
    if (bytes < huge) continue;
    const uintptr_t first = begin / huge * huge, last = (begin + bytes + huge - 1) / huge * huge;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: failing is no error
  }
#endif
}

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::vector<Layer> cut(const std::vector<Tensor>& weights, int64_t block_elements) {
  std::vector<Layer> layers;
  int64_t block = 0;
  for (const Tensor& weight : weights) {
    Layer layer;
    layer.weight = static_cast<const float*>(weight.data_ptr());
    layer.rows = weight.size(0);
    layer.columns = weight.numel() / layer.rows;
    layer.inputs = weight.size(1);
    layer.block_rows = round_up(std::max<int64_t>(1, block_elements / layer.columns), kTile);
    layer.blocks = (layer.rows + layer.block_rows - 1) / layer.block_rows;
    layer.first_block = block;
    block += layer.blocks;
    layers.push_back(layer);
  }
  return layers;
}

Item item_of(const std::vector<Layer>& layers, int64_t layer, int64_t block, Item::Phase phase) {
  const Layer& l = layers[layer];
  const int64_t first = block * l.block_rows;
  return {layer, first, std::min(l.rows, first + l.block_rows), l.first_block + block, phase};
}

// Threads take items in order. An item may wait for items before it, never for one behind it.
template <class Run>
void run_in_order(int64_t count, const Run& run) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) run(i);
  });
}

// Reduces every layer by blocks, then writes it by blocks. `reduce(item, layer)` gives a block's partial sum,
// `write(item, layer, sum)` gets the layer's.
template <class Reduce, class Write>
void reduce_then_write(const std::vector<Layer>& layers, const Reduce& reduce, const Write& write) {
  std::vector<Item> items;
  for (int64_t l = 0; l < int64_t(layers.size()); ++l) {
    const int64_t blocks = layers[l].blocks;
    if (blocks == 1) {
      items.push_back(item_of(layers, l, 0, Item::kBoth));
      continue;
    }
    for (int64_t b = 0; b < blocks; ++b) items.push_back(item_of(layers, l, b, Item::kReduce));
    for (int64_t b = blocks; b-- > 0;) items.push_back(item_of(layers, l, b, Item::kWrite));
  }
  std::vector<double> partials(layers.back().first_block + layers.back().blocks);
  std::vector<std::atomic<int64_t>> waiting(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) waiting[l] = layers[l].blocks;

  run_in_order(items.size(), [&](int64_t i) {
    const Item& item = items[i];
    const Layer& layer = layers[item.layer];
    if (item.phase != Item::kWrite) {
      partials[item.block] = reduce(item, layer);
      waiting[item.layer].fetch_sub(1, std::memory_order_acq_rel);
    }
    if (item.phase != Item::kReduce) {
      while (waiting[item.layer].load(std::memory_order_acquire)) std::this_thread::yield();
      double sum = 0;
      for (int64_t b = 0; b < layer.blocks; ++b) sum += partials[layer.first_block + b];
      write(item, layer, sum);
    }
  });
}

// ---- power iteration -------------------------------------------------------------------------------------------------------------

void power_iteration_(
    const std::vector<Tensor>& weights,
    std::vector<Tensor> us,
    std::vector<Tensor> vs,
    double eps) {
  const std::vector<Layer> layers = cut(weights, 128 * 1024);
  std::vector<Item> items;
  std::vector<int64_t> partial_offset;
  int64_t length = 0;
  for (int64_t l = 0; l < int64_t(layers.size()); ++l) {
    for (int64_t b = 0; b < layers[l].blocks; ++b) {
      items.push_back(item_of(layers, l, b, Item::kReduce));
      partial_offset.push_back(length);
      length += round_up(layers[l].columns, kTile);
    }
  }
  const std::unique_ptr<float[]> partials(new float[length]);
  std::vector<std::atomic<int64_t>> waiting(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) waiting[l] = layers[l].blocks;

  auto* const advance = SIMD_BEST(advance);
  auto* const add = SIMD_BEST(add);
  run_in_order(items.size(), [&](int64_t i) {
    const Item& item = items[i];
    const Layer& layer = layers[item.layer];
    float* u = static_cast<float*>(us[item.layer].data_ptr());
    float* v = static_cast<float*>(vs[item.layer].data_ptr());
    float* partial = partials.get() + partial_offset[i];
    const float* rows = layer.weight + item.first * layer.columns;
    advance(rows, item.last - item.first, layer.columns, v, u + item.first, partial);
    if (waiting[item.layer].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    // the last block of a layer to be done finishes it: v is read no more
    double square = 0;
    for (int64_t r = 0; r < layer.rows; ++r) square += double(u[r]) * u[r];
    const double norm = std::max(std::sqrt(square), eps);
    for (int64_t r = 0; r < layer.rows; ++r) u[r] /= norm;
    std::fill_n(v, layer.columns, 0.f);
    for (int64_t b = 0; b < layer.blocks; ++b) {
      add(partials.get() + partial_offset[layer.first_block + b], layer.columns, v);
    }
    double square_v = 0;
    for (int64_t k = 0; k < layer.columns; ++k) {
      v[k] /= norm;
      square_v += double(v[k]) * v[k];
    }
    const double norm_v = std::max(std::sqrt(square_v), eps);
    for (int64_t k = 0; k < layer.columns; ++k) v[k] /= norm_v;
  });
}

// ---- forms -----------------------------------------------------------------------------------------------------------------------

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  int64_t expected = 1;
  for (int64_t d = 3; d >= 0; --d) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return true;
    expected *= tensor.size(d);
  }
  return false;
}

Layout layout_of(const Layer& layer, int64_t form, bool channels_last) {
  const int64_t inputs = layer.inputs, outputs = layer.rows, taps = form == kPlain ? kTaps : kFolded;
  Layout layout{form, taps * inputs, channels_last ? 1 : taps, taps, {}, false};
  for (int64_t t = 0; t < taps; ++t) layout.offset[t] = channels_last ? t * inputs : t;
  if (form == kUpsample) {
    layout.lanes_are_outputs = channels_last;
    layout.step_o = channels_last ? 1 : taps;
    layout.step_i = taps * outputs;
    for (int64_t t = 0; t < taps; ++t) layout.offset[t] = channels_last ? t * outputs : t;
  } else if (form == kUpsampleShuffle && !channels_last) {
    layout.step_i = 4;
    for (int64_t t = 0; t < taps; ++t) layout.offset[t] = t / 4 * inputs * 4 + t % 4;
  }
  return layout;
}

// Calls visit(o, i, lanes, step) for tiles of up to sixteen kernels of the block's rows; `step` is from one kernel to the next in
// the weight, and the other in the form.
template <class Visit>
void for_tiles(const Item& item, const Layer& layer, const Layout& layout, const Visit& visit) {
  if (layout.lanes_are_outputs) {
    for (int64_t o = item.first; o < item.last; o += kTile) {
      for (int64_t i = 0; i < layer.inputs; ++i) visit(o, i, std::min(kTile, item.last - o), layer.columns, layout.step_o);
    }
  } else {
    for (int64_t o = item.first; o < item.last; ++o) {
      for (int64_t i = 0; i < layer.inputs; i += kTile) {
        visit(o, i, std::min(kTile, layer.inputs - i), kTaps, layout.step_i);
      }
    }
  }
}

template <class T>
void write_form(const Item& item, const Layer& layer, const Layout& layout, float factor, T* output) {
  auto* const write_tile = SIMD_BEST(write_tile<T>);
  for_tiles(item, layer, layout, [&](int64_t o, int64_t i, int64_t lanes, int64_t step, int64_t form_step) {
    const float* from = layer.weight + o * layer.columns + i * kTaps;
    write_tile(from, step, lanes, factor, layout, form_step, output + o * layout.step_o + i * layout.step_i);
  });
}

// The adjoint: gradients of a form to those of the weight.
template <class T>
void read_form(const Item& item, const Layer& layer, const Layout& layout, const T* grad, float* grad_weight) {
  auto* const read_tile = SIMD_BEST(read_tile<T>);
  for_tiles(item, layer, layout, [&](int64_t o, int64_t i, int64_t lanes, int64_t step, int64_t form_step) {
    const T* from = grad + o * layout.step_o + i * layout.step_i;
    read_tile(from, form_step, layout, lanes, step, grad_weight + o * layer.columns + i * kTaps);
  });
}

// The same for a kernel of any other size, from [o, i, taps] to [o, taps, i] and back.
template <class From, class To>
void transpose(const From* from, To* to, int64_t rows, int64_t columns, float factor) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = To(float(from[r * columns + c]) * factor);
  }
}

template <class F>
void with_type(const Tensor& tensor, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return f(static_cast<float*>(tensor.data_ptr()));
    case ScalarType::BFloat16: return f(static_cast<BFloat16*>(tensor.data_ptr()));
    case ScalarType::Half: return f(static_cast<Half*>(tensor.data_ptr()));
    default: STD_TORCH_CHECK(false, "normalise: float32, bfloat16 or float16 expected");
  }
}

// ---- normalise -------------------------------------------------------------------------------------------------------------------

constexpr int64_t kBlock = 32 * 1024;

void check(const std::vector<Tensor>& weights, const std::vector<Tensor>& finals, const std::vector<int64_t>& forms) {
  STD_TORCH_CHECK(
      !weights.empty() && weights.size() == finals.size() && weights.size() == forms.size(),
      "normalise: weights, their final forms and the names of these must be of one length");
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t numel = forms[i] == kPlain ? weights[i].numel() : weights[i].numel() / kTaps * kFolded;
    STD_TORCH_CHECK(finals[i].numel() == numel, "normalise: a final form is of the wrong size");
    with_type(finals[i], [](auto*) {});
  }
}

// Whether writing past the caches pays, and can be done: blocks begin at a cache line if the tensor does.
bool is_large(const Layer& layer, const void* to) {
  return layer.blocks > 1 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

void normalise_forward(
    const std::vector<Tensor>& weights,
    const std::vector<Tensor>& us,
    const std::vector<Tensor>& vs,
    double eps,
    const std::vector<int64_t>& forms,
    std::vector<Tensor> outputs,
    Tensor constants) {
  check(weights, outputs, forms);
  expect_writes(outputs);
  const std::vector<Layer> layers = cut(weights, kBlock);
  float* const sigmas = static_cast<float*>(constants.data_ptr());
  std::vector<float*> vectors;
  float* next = sigmas + layers.size();
  for (const Layer& layer : layers) {
    vectors.push_back(next);
    next += layer.rows + layer.columns;
  }

  reduce_then_write(
      layers,
      [&](const Item& item, const Layer& layer) {
        const float* u = static_cast<const float*>(us[item.layer].data_ptr());
        const float* v = static_cast<const float*>(vs[item.layer].data_ptr());
        auto* const dot = SIMD_BEST(dot<float>);
        double sum = 0;
        for (int64_t r = item.first; r < item.last; ++r) sum += u[r] * dot(layer.weight + r * layer.columns, v, layer.columns);
        return sum;
      },
      [&](const Item& item, const Layer& layer, double sum) {
        const float sigma = sum, factor = 1 / std::max(sigma, float(eps));
        if (item.first == 0) {
          sigmas[item.layer] = sigma;
          const float* u = static_cast<const float*>(us[item.layer].data_ptr());
          const float* v = static_cast<const float*>(vs[item.layer].data_ptr());
          std::copy_n(v, layer.columns, std::copy_n(u, layer.rows, vectors[item.layer]));
        }
        const Tensor& output = outputs[item.layer];
        const int64_t form = forms[item.layer], begin = item.first * layer.columns, end = item.last * layer.columns;
        with_type(output, [&](auto* to) {
          using T = std::remove_pointer_t<decltype(to)>;
          const bool channels_last = is_channels_last(output);
          if (form == kPlain && !channels_last) {
            SIMD_BEST(scale<T>)(layer.weight + begin, factor, end - begin, is_large(layer, to), to + begin);
          } else if (form == kPlain && layer.columns != layer.inputs * kTaps) {
            for (int64_t k = begin; k < end; k += layer.columns) {
              transpose(layer.weight + k, to + k, layer.inputs, layer.columns / layer.inputs, factor);
            }
          } else {
            write_form(item, layer, layout_of(layer, form, channels_last), factor, to);
          }
        });
      });
}

void normalise_backward(
    const std::vector<Tensor>& grads,
    const std::vector<Tensor>& weights,
    const Tensor& constants,
    double eps,
    const std::vector<int64_t>& forms,
    std::vector<Tensor> grad_weights) {
  check(weights, grads, forms);
  expect_writes(grad_weights);
  const std::vector<Layer> layers = cut(weights, kBlock);
  const float* const sigmas = static_cast<const float*>(constants.data_ptr());
  std::vector<const float*> vectors;
  const float* next = sigmas + layers.size();
  for (const Layer& layer : layers) {
    vectors.push_back(next);
    next += layer.rows + layer.columns;
  }

  reduce_then_write(
      layers,
      [&](const Item& item, const Layer& layer) {
        // what is not laid out like the weight is laid out so, in the result
        const Tensor& grad = grads[item.layer];
        const int64_t form = forms[item.layer], begin = item.first * layer.columns, end = item.last * layer.columns;
        float* result = static_cast<float*>(grad_weights[item.layer].data_ptr());
        double sum = 0;
        with_type(grad, [&](auto* from) {
          using T = std::remove_pointer_t<decltype(from)>;
          const bool channels_last = is_channels_last(grad);
          if (form == kPlain && !channels_last) {
            auto* const dot = SIMD_BEST(dot<T>);
            for (int64_t k = begin; k < end; k += layer.columns) sum += dot(from + k, layer.weight + k, layer.columns);
            return;
          }
          if (form == kPlain && layer.columns != layer.inputs * kTaps) {
            for (int64_t k = begin; k < end; k += layer.columns) {
              transpose(from + k, result + k, layer.columns / layer.inputs, layer.inputs, 1);
            }
          } else {
            read_form<T>(item, layer, layout_of(layer, form, channels_last), from, result);
          }
          auto* const dot = SIMD_BEST(dot<float>);
          for (int64_t k = begin; k < end; k += layer.columns) sum += dot(result + k, layer.weight + k, layer.columns);
        });
        return sum;
      },
      [&](const Item& item, const Layer& layer, double sum) {
        const float sigma = sigmas[item.layer];
        const double clamped = std::max(sigma, float(eps));
        const float factor = 1 / clamped;
        const float inner = sigma < float(eps) ? 0 : sum / (clamped * clamped);  // a clamped norm is a constant
        const float* u = vectors[item.layer];
        const float* v = u + layer.rows;
        const Tensor& grad = grads[item.layer];
        const int64_t begin = item.first * layer.columns;
        float* result = static_cast<float*>(grad_weights[item.layer].data_ptr());
        const auto write = [&](auto* from) {
          auto* const subtract = SIMD_BEST(subtract<std::remove_pointer_t<decltype(from)>>);
          subtract(
              from + begin, factor, inner, u + item.first, v, item.last - item.first, layer.columns, is_large(layer, result),
              result + begin);
        };
        if (forms[item.layer] == kPlain && !is_channels_last(grad)) {
          with_type(grad, write);
        } else {
          write(result);
        }
      });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("power_iteration_", TORCH_BOX(&talkinghead::power_iteration_));
  m.impl("normalise_forward", TORCH_BOX(&talkinghead::normalise_forward));
  m.impl("normalise_backward", TORCH_BOX(&talkinghead::normalise_backward));
}
