// Spectral normalisation of all layers of a network in one call.
//
// The matrix of a layer is divided into blocks of rows. The blocks of all layers form one work
// list, which threads process in order. The work of a block and the order in which blocks are
// summed depend on the shapes only, so results are bit-equal for any number of threads. If a layer
// needs all of its matrix before the first element can be written (sigma, <dW_hat, W>), its blocks
// are in the list twice, the second time in reverse order, because the rows read last are still in
// the cache.
#include "cpu/spectral_norm_schedule.h"
#include "torch_abi.h"

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
constexpr int64_t kTile = 16;  // kernels folded together: floats of a cache line
constexpr int64_t kSuccessive[kFolded] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The offset of element (o, i, tap) of a weight's final form: o * step_o + i * step_i +
// offset[tap].
struct Layout {
  int64_t form;
  int64_t step_o, step_i, taps;
  int64_t offset[kFolded];
  // Whether tiles of sixteen kernels are along the outputs: the axis with contiguous elements or,
  // if there is none, with the shorter step.
  bool lanes_are_outputs;
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/spectral_norm_rows.inl"
#include "simd.h"

namespace talkinghead {
namespace {

// ---- power iteration

void power_iteration_(const std::vector<Tensor>& weights, std::vector<Tensor> us,
                      std::vector<Tensor> vs, double eps) {
  const std::vector<Layer> layers = split_into_blocks(weights, 128 * 1024);
  std::vector<Item> items;
  std::vector<int64_t> partial_offset;
  int64_t length = 0;
  for (int64_t l = 0; l < int64_t(layers.size()); ++l) {
    for (int64_t b = 0; b < layers[l].blocks; ++b) {
      items.push_back(make_item(layers, l, b, Item::kReduce));
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
    // The last block of a layer finishes it: v is not read any more.
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

// ---- forms

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
  const int64_t inputs = layer.inputs, outputs = layer.rows,
                taps = form == kPlain ? kTaps : kFolded;
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

// Calls visit(o, i, lanes, step, form_step) for tiles of up to sixteen kernels of the block's rows;
// `step` is the distance of kernels in the weight, `form_step` in the form.
template <class Visit>
void for_each_tile(const Item& item, const Layer& layer, const Layout& layout, const Visit& visit) {
  if (layout.lanes_are_outputs) {
    for (int64_t o = item.first; o < item.last; o += kTile) {
      for (int64_t i = 0; i < layer.inputs; ++i)
        visit(o, i, std::min(kTile, item.last - o), layer.columns, layout.step_o);
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
void write_form(const Item& item, const Layer& layer, const Layout& layout, float factor,
                T* output) {
  auto* const write_tile = SIMD_BEST(write_tile<T>);
  for_each_tile(item, layer, layout,
                [&](int64_t o, int64_t i, int64_t lanes, int64_t step, int64_t form_step) {
                  const float* from = layer.weight + o * layer.columns + i * kTaps;
                  write_tile(from, step, lanes, factor, layout, form_step,
                             output + o * layout.step_o + i * layout.step_i);
                });
}

// The adjoint: computes the gradient of the weight from that of its form.
template <class T>
void read_form(const Item& item, const Layer& layer, const Layout& layout, const T* grad,
               float* grad_weight) {
  auto* const read_tile = SIMD_BEST(read_tile<T>);
  for_each_tile(item, layer, layout,
                [&](int64_t o, int64_t i, int64_t lanes, int64_t step, int64_t form_step) {
                  const T* from = grad + o * layout.step_o + i * layout.step_i;
                  read_tile(from, form_step, layout, lanes, step,
                            grad_weight + o * layer.columns + i * kTaps);
                });
}

// Transposes kernels of other sizes, from [o, i, taps] to [o, taps, i] and back.
template <class From, class To>
void transpose(const From* from, To* to, int64_t rows, int64_t columns, float factor) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = To(float(from[r * columns + c]) * factor);
  }
}

template <class F>
void dispatch_dtype(const Tensor& tensor, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(static_cast<float*>(tensor.data_ptr()));
    case ScalarType::BFloat16:
      return f(static_cast<BFloat16*>(tensor.data_ptr()));
    case ScalarType::Half:
      return f(static_cast<Half*>(tensor.data_ptr()));
    default:
      STD_TORCH_CHECK(false, "normalise: float32, bfloat16 or float16 expected");
  }
}

// ---- normalise

// A large tensor is often new memory, and touching its pages for the first time takes longer than
// writing them: a huge page replaces 512 of them. Those at its two ends extend beyond the tensor,
// usually into neighbouring tensors.
void request_huge_pages(const std::vector<Tensor>& tensors) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = 2 * 1024 * 1024;
  for (const Tensor& tensor : tensors) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    const uintptr_t bytes = tensor.numel() * tensor.element_size();
    if (bytes < huge) continue;
    const uintptr_t first = begin / huge * huge, last = (begin + bytes + huge - 1) / huge * huge;
    madvise(reinterpret_cast<void*>(first), last - first,
            MADV_HUGEPAGE);  // a hint: errors are ignored
  }
#endif
}

constexpr int64_t kBlock = 32 * 1024;

void check(const std::vector<Tensor>& weights, const std::vector<Tensor>& finals,
           const std::vector<int64_t>& forms) {
  STD_TORCH_CHECK(
      !weights.empty() && weights.size() == finals.size() && weights.size() == forms.size(),
      "normalise: weights, their final forms and the names of these must be of one length");
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t numel =
        forms[i] == kPlain ? weights[i].numel() : weights[i].numel() / kTaps * kFolded;
    STD_TORCH_CHECK(finals[i].numel() == numel, "normalise: a final form is of the wrong size");
    dispatch_dtype(finals[i], [](auto*) {});
  }
}

// Returns whether to write past the caches: the layer is large, and blocks start at a cache line if
// the tensor does.
bool should_stream(const Layer& layer, const void* to) {
  return layer.blocks > 1 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

void normalise_forward(const std::vector<Tensor>& weights, const std::vector<Tensor>& us,
                       const std::vector<Tensor>& vs, double eps, const std::vector<int64_t>& forms,
                       std::vector<Tensor> outputs, Tensor constants) {
  check(weights, outputs, forms);
  request_huge_pages(outputs);
  const std::vector<Layer> layers = split_into_blocks(weights, kBlock);
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
        for (int64_t r = item.first; r < item.last; ++r)
          sum += u[r] * dot(layer.weight + r * layer.columns, v, layer.columns);
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
        const int64_t form = forms[item.layer], begin = item.first * layer.columns,
                      end = item.last * layer.columns;
        dispatch_dtype(output, [&](auto* to) {
          using T = std::remove_pointer_t<decltype(to)>;
          const bool channels_last = is_channels_last(output);
          if (form == kPlain && !channels_last) {
            SIMD_BEST(scale<T>)(layer.weight + begin, factor, end - begin, should_stream(layer, to),
                                to + begin);
          } else if (form == kPlain && layer.columns != layer.inputs * kTaps) {
            for (int64_t k = begin; k < end; k += layer.columns) {
              transpose(layer.weight + k, to + k, layer.inputs, layer.columns / layer.inputs,
                        factor);
            }
          } else {
            write_form(item, layer, layout_of(layer, form, channels_last), factor, to);
          }
        });
      });
}

void normalise_backward(const std::vector<Tensor>& grads, const std::vector<Tensor>& weights,
                        const Tensor& constants, double eps, const std::vector<int64_t>& forms,
                        std::vector<Tensor> grad_weights) {
  check(weights, grads, forms);
  request_huge_pages(grad_weights);
  const std::vector<Layer> layers = split_into_blocks(weights, kBlock);
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
        // A gradient in another layout is first converted to the layout of the weight, in the
        // result.
        const Tensor& grad = grads[item.layer];
        const int64_t form = forms[item.layer], begin = item.first * layer.columns,
                      end = item.last * layer.columns;
        float* result = static_cast<float*>(grad_weights[item.layer].data_ptr());
        double sum = 0;
        dispatch_dtype(grad, [&](auto* from) {
          using T = std::remove_pointer_t<decltype(from)>;
          const bool channels_last = is_channels_last(grad);
          if (form == kPlain && !channels_last) {
            auto* const dot = SIMD_BEST(dot<T>);
            for (int64_t k = begin; k < end; k += layer.columns)
              sum += dot(from + k, layer.weight + k, layer.columns);
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
          for (int64_t k = begin; k < end; k += layer.columns)
            sum += dot(result + k, layer.weight + k, layer.columns);
        });
        return sum;
      },
      [&](const Item& item, const Layer& layer, double sum) {
        const float sigma = sigmas[item.layer];
        const double clamped = std::max(sigma, float(eps));
        const float factor = 1 / clamped;
        const float inner =
            sigma < float(eps) ? 0 : sum / (clamped * clamped);  // a clamped norm is constant
        const float* u = vectors[item.layer];
        const float* v = u + layer.rows;
        const Tensor& grad = grads[item.layer];
        const int64_t begin = item.first * layer.columns;
        float* result = static_cast<float*>(grad_weights[item.layer].data_ptr());
        const auto write = [&](auto* from) {
          auto* const subtract = SIMD_BEST(subtract<std::remove_pointer_t<decltype(from)>>);
          subtract(from + begin, factor, inner, u + item.first, v, item.last - item.first,
                   layer.columns, should_stream(layer, result), result + begin);
        };
        if (forms[item.layer] == kPlain && !is_channels_last(grad)) {
          dispatch_dtype(grad, write);
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
