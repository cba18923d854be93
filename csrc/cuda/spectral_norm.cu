// Spectral norm of all layers of a network at once, on CUDA. Formulas:
// kernels/talkinghead_kernels/spectral_norm.py.
//
// The table of layers is a parameter of the kernel, passed by value, so that nothing is copied to
// the device first. power_iteration_ is one launch: the last block of a layer to finish overwrites
// v, when all others have read it; the tickets that identify it are integers cleared by the stream
// before the launch. normalise and its backward are two launches: the first computes partial sums
// of sigma, or of the inner product of the gradient; every block of the second adds them up in the
// same order, and writes. The second processes blocks in reverse order, because the data read last
// is still in the L2 cache.
#include "spectral_norm_write.cuh"

#include <algorithm>
#include <vector>

namespace talkinghead {
namespace {

struct Layer {
  const float* weight;
  float *u, *v;  // backward: in `constants`
  void* folded;
  float* grad_weight;
  float* sigma;  // in `constants`; its u and v stand at `copy`
  float* copy;
  int rows, inputs, area;
  Form form;
  bool channels_last;
};

// Divides rows among blocks, and the workspace among layers. Returns the number of blocks; `floats`
// is the size of the workspace.
int plan_sweep(const char* op, const Layer* layers, int count, bool iterate, float* scratch,
               Sweep& sweep, int64_t& floats) {
  sweep.count = count;
  int64_t cost = 0;
  for (int i = 0; i < count; ++i) {
    const Layer& from = layers[i];
    SweepLayer& layer = sweep.layers[i];
    layer = {from.weight, from.u, from.v,    from.copy,
             nullptr,     cost,   from.rows, from.inputs * from.area,
             0,           0,      0};
    cost += row_cost(layer) * layer.rows;
  }
  const int64_t most = kBlocksPerMultiprocessor * current_device(op).multiprocessors;
  const int64_t pieces = std::clamp<int64_t>(cost / kLeastShare, 1, most);
  sweep.share = (cost + pieces - 1) / pieces;
  int tickets = 0;
  for (int i = 0; i < count; ++i) {
    SweepLayer& layer = sweep.layers[i];
    const int64_t last_row = layer.cost + row_cost(layer) * (layer.rows - 1);
    layer.first_block = static_cast<int>(layer.cost / sweep.share);
    layer.blocks = static_cast<int>(last_row / sweep.share) - layer.first_block + 1;
    layer.ticket = tickets;
    if (iterate) tickets += 1 + (layer.blocks + kGroup - 1) / kGroup;
  }
  floats = round_up(tickets, 4);
  for (int i = 0; i < count; ++i) {
    SweepLayer& layer = sweep.layers[i];
    if (scratch) layer.scratch = scratch + floats;
    floats += iterate ? round_up(layer.rows, 4) +
                            static_cast<int64_t>(layer.blocks) * round_up(layer.columns, 4)
                      : layer.blocks;
  }
  sweep.tickets = reinterpret_cast<unsigned*>(scratch);
  return sweep.layers[count - 1].first_block + sweep.layers[count - 1].blocks;
}

// Divides the work of writing. Partial sums are stored in `scratch` by the task that computes them,
// and read from there by the other.
int plan_write(const Layer* layers, int count, int tiles_per_block, float eps, float* scratch,
               Write& write, int64_t& floats) {
  write.count = count;
  write.eps = eps;
  write.tiles_per_block = tiles_per_block;
  int blocks = 0;
  for (int i = 0; i < count; ++i) {
    const Layer& from = layers[i];
    WriteLayer& layer = write.layers[i];
    layer = {from.weight, from.folded, from.grad_weight,  from.u,    from.sigma,
             nullptr,     from.rows,   from.inputs,       from.area, blocks,
             0,           from.form,   from.channels_last};
    layer.part_count =
        static_cast<int>((tile_count(layer) + tiles_per_block - 1) / tiles_per_block);
    if (scratch) layer.parts = scratch + blocks;
    blocks += layer.part_count;
  }
  floats = blocks;
  return blocks;
}

constexpr int kInnerTiles =
    8;  // tiles whose inner product one block forms: as many parts fewer to sum

// Returns the floats of workspace of the largest launch of these layers.
int64_t scratch_of(const char* op, const Layer* layers, int64_t count, Task task, bool iterate) {
  int64_t most = 0, floats = 0;
  for (int64_t first = 0; first < count; first += kLayers) {
    const int some = static_cast<int>(std::min<int64_t>(kLayers, count - first));
    Sweep sweep;
    Write write;
    if (task == kForward) {
      plan_sweep(op, layers + first, some, iterate, nullptr, sweep, floats);
    } else {
      plan_write(layers + first, some, kInnerTiles, 0, nullptr, write, floats);
    }
    most = std::max(most, floats);
  }
  return most;
}

LaunchShape shape_of(int blocks) { return {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}; }

// Launches of one stream run in sequence, so all of them use the same workspace.
void power_iteration(const Layer* layers, int64_t count, float eps, float* scratch,
                     cudaStream_t stream) {
  constexpr const char* op = "power_iteration_";
  for (int64_t first = 0; first < count; first += kLayers) {
    Sweep sweep;
    int64_t floats = 0;
    const int some = static_cast<int>(std::min<int64_t>(kLayers, count - first));
    const int blocks = plan_sweep(op, layers + first, some, true, scratch, sweep, floats);
    sweep.eps = eps;
    // cleared by the stream, in a captured graph by a node of it: nothing survives a call, so
    // streams and replays do not meet
    const int64_t tickets = sweep.layers[0].scratch - scratch;
    check_cuda(cudaMemsetAsync(scratch, 0, tickets * sizeof(float), stream), op, "cudaMemsetAsync");
    launch(op, shape_of(blocks), stream, sweep_kernel<true>, sweep);
  }
}

template <class T>
void normalise_forward(const Layer* layers, int64_t count, float eps, float* scratch,
                       cudaStream_t stream) {
  constexpr const char* op = "normalise";
  for (int64_t first = 0; first < count; first += kLayers) {
    Sweep sweep;
    Write write;
    int64_t floats = 0;
    const int some = static_cast<int>(std::min<int64_t>(kLayers, count - first));
    int blocks = plan_sweep(op, layers + first, some, false, scratch, sweep, floats);
    launch(op, shape_of(blocks), stream, sweep_kernel<false>, sweep);
    blocks = plan_write(layers + first, some, 1, eps, nullptr, write, floats);
    for (int i = 0; i < some; ++i) {
      write.layers[i].parts = sweep.layers[i].scratch;
      write.layers[i].part_count = sweep.layers[i].blocks;
    }
    launch(op, shape_of(blocks), stream, write_kernel<T, kForward>, write);
  }
}

template <class T>
void normalise_backward(const Layer* layers, int64_t count, float eps, float* scratch,
                        cudaStream_t stream) {
  constexpr const char* op = "normalise_backward";
  for (int64_t first = 0; first < count; first += kLayers) {
    Write inner, write;
    int64_t floats = 0;
    const int some = static_cast<int>(std::min<int64_t>(kLayers, count - first));
    int blocks = plan_write(layers + first, some, kInnerTiles, eps, scratch, inner, floats);
    launch(op, shape_of(blocks), stream, write_kernel<T, kInner>, inner);
    blocks = plan_write(layers + first, some, 1, eps, nullptr, write, floats);
    for (int i = 0; i < some; ++i) {
      write.layers[i].parts = inner.layers[i].parts;
      write.layers[i].part_count = inner.layers[i].part_count;
    }
    launch(op, shape_of(blocks), stream, write_kernel<T, kBackward>, write);
  }
}

}  // namespace
}  // namespace talkinghead

#ifndef CUDA_ON_CPU
// ---- torch -------------------------------------------------------------------------------------

namespace talkinghead {
namespace {

// Checks what would corrupt memory; Python has checked the rest.
void check_float(const char* op, const char* name, const Tensor& tensor, int64_t numbers,
                 const Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() &&
                      tensor.numel() == numbers && tensor.is_cuda() &&
                      tensor.get_device_index() == like.get_device_index(),
                  op, ": ", name, " must be float32, contiguous, of ", numbers,
                  " numbers, on the device of weights[0]");
}

Layer layer_of(const char* op, const Tensor& weight, const Tensor& first) {
  STD_TORCH_CHECK(weight.dim() >= 2 && weight.numel() > 0, op,
                  ": weights must be [out, in, ...] and hold a number");
  check_float(op, "a weight", weight, weight.numel(), first);
  const int64_t rows = weight.size(0), inputs = weight.size(1), columns = weight.numel() / rows;
  STD_TORCH_CHECK(rows < (1 << 30) && columns < (1 << 30), op,
                  ": weights must have fewer than 2^30 rows and columns");
  Layer layer = {};
  layer.weight = static_cast<const float*>(weight.data_ptr());
  layer.rows = static_cast<int>(rows), layer.inputs = static_cast<int>(inputs),
  layer.area = static_cast<int>(columns / inputs);
  return layer;
}

void set_vectors(const char* op, Layer& layer, const Tensor& u, const Tensor& v,
                 const Tensor& first) {
  check_float(op, "u", u, layer.rows, first);
  check_float(op, "v", v, int64_t(layer.inputs) * layer.area, first);
  layer.u = static_cast<float*>(u.data_ptr()), layer.v = static_cast<float*>(v.data_ptr());
}

void set_folded(const char* op, Layer& layer, const Tensor& folded, int64_t form,
                const Tensor& first, ScalarType dtype) {
  STD_TORCH_CHECK(0 <= form && form < 4, op, ": form must be 0 to 3, got ", form);
  STD_TORCH_CHECK(form == kPlain || layer.area == 9, op, ": only 3x3 weights are folded");
  const int64_t numbers = int64_t(layer.rows) * layer.inputs * (form == kPlain ? layer.area : 16);
  bool last = false;
  if (!folded.is_contiguous() && folded.dim() == 4) {
    const int64_t c = folded.size(1), w = folded.size(3);
    last = (c == 1 || folded.stride(1) == 1) && (w == 1 || folded.stride(3) == c) &&
           (folded.size(2) == 1 || folded.stride(2) == w * c) &&
           (folded.size(0) == 1 || folded.stride(0) == folded.size(2) * w * c);
  }
  STD_TORCH_CHECK(
      folded.numel() == numbers && folded.scalar_type() == dtype &&
          (last || folded.is_contiguous()) && folded.is_cuda() &&
          folded.get_device_index() == first.get_device_index(),
      op, ": a folded weight must hold ", numbers,
      " numbers of one dtype, contiguous or channels_last, on the device of weights[0]");
  layer.form = static_cast<Form>(form), layer.channels_last = last;
  layer.folded = folded.data_ptr();
}

// Calls f with a value of the dtype.
template <class F>
void with_dtype(const char* op, ScalarType dtype, F f) {
  if (dtype == ScalarType::Float) return f(float{});
  if (dtype == ScalarType::BFloat16) return f(bfloat16{});
  if (dtype == ScalarType::Half) return f(half{});
  STD_TORCH_CHECK(false, op, ": dtype must be float32, bfloat16 or float16");
}

void place_constants(const char* op, std::vector<Layer>& layers, const Tensor& constants,
                     const Tensor& first) {
  int64_t numbers = int64_t(layers.size());
  for (const Layer& layer : layers) numbers += layer.rows + int64_t(layer.inputs) * layer.area;
  check_float(op, "constants", constants, numbers, first);
  float* const base = static_cast<float*>(constants.data_ptr());
  float* next = base + layers.size();
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].sigma = base + i;
    layers[i].copy = next;
    next += layers[i].rows + int64_t(layers[i].inputs) * layers[i].area;
  }
}

void check_lists(const char* op, std::initializer_list<size_t> sizes) {
  for (const size_t size : sizes) {
    STD_TORCH_CHECK(size > 0 && size == *sizes.begin(), op,
                    ": lists must be of one length and not empty");
  }
}

// Allocated by torch for its current stream, and freed there when the handle is destroyed.
Tensor scratch_for(const char* op, const std::vector<Layer>& layers, Task task, bool iterate,
                   const Tensor& like) {
  return torch::stable::new_empty(
      like, {scratch_of(op, layers.data(), int64_t(layers.size()), task, iterate)});
}

void run_power_iteration(const std::vector<Tensor> weights, const std::vector<Tensor> us,
                         const std::vector<Tensor> vs, double eps) {
  constexpr const char* op = "power_iteration_";
  check_lists(op, {weights.size(), us.size(), vs.size()});
  std::vector<Layer> layers;
  for (size_t i = 0; i < weights.size(); ++i) {
    layers.push_back(layer_of(op, weights[i], weights[0]));
    set_vectors(op, layers.back(), us[i], vs[i], weights[0]);
  }
  const torch::stable::accelerator::DeviceGuard guard(weights[0].get_device_index());
  const Tensor scratch = scratch_for(op, layers, kForward, true, weights[0]);
  power_iteration(layers.data(), int64_t(layers.size()), float(eps),
                  static_cast<float*>(scratch.data_ptr()),
                  current_stream(weights[0].get_device_index()));
}

void run_normalise_forward(const std::vector<Tensor> weights, const std::vector<Tensor> us,
                           const std::vector<Tensor> vs, double eps,
                           const std::vector<int64_t> forms, const std::vector<Tensor> outputs,
                           Tensor constants) {
  constexpr const char* op = "normalise";
  check_lists(op, {weights.size(), us.size(), vs.size(), forms.size(), outputs.size()});
  std::vector<Layer> layers;
  const ScalarType dtype = outputs[0].scalar_type();
  for (size_t i = 0; i < weights.size(); ++i) {
    layers.push_back(layer_of(op, weights[i], weights[0]));
    set_vectors(op, layers.back(), us[i], vs[i], weights[0]);
    set_folded(op, layers.back(), outputs[i], forms[i], weights[0], dtype);
  }
  place_constants(op, layers, constants, weights[0]);
  const torch::stable::accelerator::DeviceGuard guard(weights[0].get_device_index());
  const Tensor scratch = scratch_for(op, layers, kForward, false, weights[0]);
  with_dtype(op, dtype, [&](auto kind) {
    normalise_forward<decltype(kind)>(layers.data(), int64_t(layers.size()), float(eps),
                                      static_cast<float*>(scratch.data_ptr()),
                                      current_stream(weights[0].get_device_index()));
  });
}

void run_normalise_backward(const std::vector<Tensor> grads, const std::vector<Tensor> weights,
                            const Tensor constants, double eps, const std::vector<int64_t> forms,
                            const std::vector<Tensor> grad_weights) {
  constexpr const char* op = "normalise_backward";
  check_lists(op, {grads.size(), weights.size(), forms.size(), grad_weights.size()});
  std::vector<Layer> layers;
  const ScalarType dtype = grads[0].scalar_type();
  for (size_t i = 0; i < weights.size(); ++i) {
    layers.push_back(layer_of(op, weights[i], weights[0]));
    set_folded(op, layers.back(), grads[i], forms[i], weights[0], dtype);
    check_float(op, "a weight's gradient", grad_weights[i], weights[i].numel(), weights[0]);
    layers.back().grad_weight = static_cast<float*>(grad_weights[i].data_ptr());
  }
  place_constants(op, layers, constants, weights[0]);
  for (Layer& layer : layers) layer.u = layer.copy;
  const torch::stable::accelerator::DeviceGuard guard(weights[0].get_device_index());
  const Tensor scratch = scratch_for(op, layers, kInner, false, weights[0]);
  with_dtype(op, dtype, [&](auto kind) {
    normalise_backward<decltype(kind)>(layers.data(), int64_t(layers.size()), float(eps),
                                       static_cast<float*>(scratch.data_ptr()),
                                       current_stream(weights[0].get_device_index()));
  });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CUDA, m) {
  m.impl("power_iteration_", TORCH_BOX(&talkinghead::run_power_iteration));
  m.impl("normalise_forward", TORCH_BOX(&talkinghead::run_normalise_forward));
  m.impl("normalise_backward", TORCH_BOX(&talkinghead::run_normalise_backward));
}
#endif
