// Adaptive instance normalisation on CUDA devices, sm_80 and newer.
//
// In both memory formats a tensor consists of tiles of rows of packs. A pack is the unit of memory
// access of a thread: 16 bytes, or one element where an address or a size is not aligned. NCHW: a
// tile is a plane, a row is a pack. channels_last: a tile is a few neighbouring channels of a
// sample, a row is a pixel, and each element of its packs has its own statistics.
//
// A tile that fits stays in the registers of a warp, a block or, on sm_90 and newer, a cluster of
// up to 8 blocks: it is read once and written once. A larger tile is read twice: one kernel stores
// partial statistics, another merges and applies them. Launches alternate over groups of tiles that
// fit into the L2 cache, so that the second read seldom reaches memory. All merges use Chan's
// formula in a fixed order.
#include <functional>
#include <type_traits>

#include "adain_backward.cuh"
#include "adain_forward.cuh"
#include "adain_plan.h"
#include "cuda_launch.h"

namespace talkinghead {
namespace {

// ---- launches ----------------------------------------------------------------------------------

enum class Type { float32, bfloat16, float16 };

struct Shape {
  int64_t batch, channels, area;
  bool channels_last;
};

using Allocate =
    std::function<void*(int64_t bytes)>;  // device memory that lives until the launches are queued

constexpr const char* kForward = "adain_forward";
constexpr const char* kBackward = "adain_backward";

template <class Kernel, class Arguments>
void launch_on_chip(const char* op, const Plan& plan, cudaStream_t stream, Kernel kernel,
                    const Arguments& arguments) {
  const Layout& layout = plan.layout;
  const LaunchShape shape = {
      dim3(unsigned(divide_up(layout.tiles, plan.tiles_per_block) * layout.parts)),
      dim3(unsigned(plan.threads), unsigned(plan.tiles_per_block)), plan.shared_bytes,
      unsigned(layout.ranks)};
  launch(op, shape, stream, kernel, arguments, layout);
}

template <class Kernel, class Arguments>
void launch_streamed(const char* op, const Plan& plan, cudaStream_t stream, Kernel reduce,
                     Kernel apply, const Arguments& arguments) {
  Layout layout = plan.layout;
  for (; layout.first < layout.tiles; layout.first += plan.group) {
    const unsigned blocks =
        unsigned(std::min(plan.group, layout.tiles - layout.first) * layout.parts);
    LaunchShape shape = {dim3(blocks), dim3(unsigned(plan.threads)), plan.shared_bytes,
                         unsigned(layout.ranks)};
    launch(op, shape, stream, reduce, arguments, layout);
    shape.cluster = 1;
    launch(op, shape, stream, apply, arguments, layout);
  }
}

template <class T, int Bytes, bool Last>
void launch_forward(const Plan& plan, const Forward<T>& f, cudaStream_t stream) {
  const auto on_chip = [&](auto kernel) { launch_on_chip(kForward, plan, stream, kernel, f); };
  if (!plan.on_chip) {
    launch_streamed(kForward, plan, stream, forward_statistics<T, Bytes, Last>,
                    forward_apply<T, Bytes, Last>, f);
  } else if constexpr (Last) {
    on_chip(plan.packs == 4 ? forward_on_chip<T, Bytes, Last, 4>
                            : forward_on_chip<T, Bytes, Last, 8>);
  } else if constexpr (Bytes == 16) {
    if (plan.packs == 1) return on_chip(forward_on_chip<T, Bytes, Last, 1>);
    on_chip(plan.packs == 4 ? forward_on_chip<T, Bytes, Last, 4>
                            : forward_on_chip<T, Bytes, Last, 8>);
  } else {
    on_chip(plan.packs == 8 ? forward_on_chip<T, Bytes, Last, 8>
                            : forward_on_chip<T, Bytes, Last, 16>);
  }
}

template <class T, int Bytes, bool Last>
void launch_backward(const Plan& plan, const Backward<T>& b, cudaStream_t stream) {
  const auto on_chip = [&](auto kernel) { launch_on_chip(kBackward, plan, stream, kernel, b); };
  if (!plan.on_chip) {
    launch_streamed(kBackward, plan, stream, backward_sums<T, Bytes, Last>,
                    backward_apply<T, Bytes, Last>, b);
  } else if constexpr (Last) {
    on_chip(backward_on_chip<T, Bytes, Last, 4>);
  } else if constexpr (Bytes == 16) {
    on_chip(plan.packs == 1 ? backward_on_chip<T, Bytes, Last, 1>
                            : backward_on_chip<T, Bytes, Last, 4>);
  } else {
    on_chip(plan.packs == 4 ? backward_on_chip<T, Bytes, Last, 4>
                            : backward_on_chip<T, Bytes, Last, 8>);
  }
}

// Kernels that are asked for all of this file, which are compiled for the same architectures.
const void* const kForwardCode =
    reinterpret_cast<const void*>(forward_statistics<float, 16, false>);
const void* const kBackwardCode = reinterpret_cast<const void*>(backward_sums<float, 16, false>);

Plan plan_on_current_device(const char* op, const void* code, const Shape& shape, int element_bytes,
                            int held, std::initializer_list<const void*> addresses) {
  bool aligned = true;
  for (const void* address : addresses)
    aligned = aligned && reinterpret_cast<uintptr_t>(address) % 16 == 0;
  const Device device = current_device(op);
  const bool clusters = uses_clusters(op, code);
  if (shape.batch * shape.channels > kRowsMost || shape.area > kRowsMost)
    throw std::runtime_error(std::string(op) + ": more than 2^30 planes, or elements of a plane");
  const Problem problem = {
      element_bytes, shape.batch, shape.channels, shape.area, shape.channels_last, aligned, held};
  const Plan plan = plan_adain(problem, device.multiprocessors, clusters, device.l2_bytes);
  if (int64_t(plan.group) * plan.layout.parts > INT32_MAX)
    throw std::runtime_error(std::string(op) + ": more blocks than a grid can have");
  return plan;
}

// Calls f(value of the type, bytes of a pack, whether channels_last), the latter two as constants.
template <class F>
void for_type(Type type, const Plan& plan, bool channels_last, F f) {
  const auto for_pack = [&](auto value) {
    using Narrow = std::integral_constant<int, sizeof(value)>;
    using Wide = std::integral_constant<int, 16>;
    if (plan.pack_bytes == 16) {
      channels_last ? f(value, Wide(), std::true_type()) : f(value, Wide(), std::false_type());
    } else {
      channels_last ? f(value, Narrow(), std::true_type()) : f(value, Narrow(), std::false_type());
    }
  };
  if (type == Type::float32) return for_pack(float());
  if (type == Type::bfloat16) return for_pack(bfloat16());
  for_pack(half());
}

Plan run_forward(Type type, const Shape& shape, const Forward<void>& arguments,
                 const Allocate& allocate, cudaStream_t stream) {
  Forward<void> f = arguments;
  const Plan plan = plan_on_current_device(
      kForward, kForwardCode, shape, type == Type::float32 ? 4 : 2, 1, {f.x, f.residual, f.y, f.h});
  if (plan.partials > 0)
    f.partial = static_cast<float2*>(allocate(plan.partials * int64_t(sizeof(float2))));
  for_type(type, plan, shape.channels_last, [&](auto value, auto bytes, auto last) {
    using T = decltype(value);
    const Forward<T> typed = {static_cast<const T*>(f.x),
                              static_cast<const T*>(f.residual),
                              static_cast<T*>(f.y),
                              static_cast<T*>(f.h),
                              f.mean,
                              f.rstd,
                              f.partial,
                              f.affine,
                              f.eps,
                              f.relu};
    launch_forward<T, bytes(), last()>(plan, typed, stream);
  });
  return plan;
}

Plan run_backward(Type type, const Shape& shape, const Backward<void>& arguments,
                  const Allocate& allocate, cudaStream_t stream) {
  Backward<void> b = arguments;
  const Plan plan =
      plan_on_current_device(kBackward, kBackwardCode, shape, type == Type::float32 ? 4 : 2, 2,
                             {b.grad_y, b.grad_h, b.h, b.grad_x});
  if (plan.partials > 0)
    b.partial = static_cast<float2*>(allocate(plan.partials * int64_t(sizeof(float2))));
  for_type(type, plan, shape.channels_last, [&](auto value, auto bytes, auto last) {
    using T = decltype(value);
    const Backward<T> typed = {static_cast<const T*>(b.grad_y),
                               static_cast<const T*>(b.grad_h),
                               static_cast<const T*>(b.h),
                               static_cast<T*>(b.grad_x),
                               b.mean,
                               b.rstd,
                               b.grad_scale,
                               b.grad_bias,
                               b.partial,
                               b.affine,
                               b.relu};
    launch_backward<T, bytes(), last()>(plan, typed, stream);
  });
  return plan;
}

// ---- torch -------------------------------------------------------------------------------------
#ifndef CUDA_ON_CPU

bool has_strides(const Tensor& t, std::initializer_list<int> from_inner) {
  int64_t stride = 1;
  for (int dimension : from_inner) {
    if (t.size(dimension) != 1 && t.stride(dimension) != stride) return false;
    stride *= t.size(dimension);
  }
  return true;
}

Shape shape_of(const char* op, const Tensor& x) {
  STD_TORCH_CHECK(x.is_cuda() && x.dim() == 4 && x.numel() > 0, op,
                  ": needs a CUDA tensor [B, C, H, W], not empty");
  return {x.size(0), x.size(1), x.size(2) * x.size(3), !has_strides(x, {3, 2, 1, 0})};
}

Type type_of(const char* op, const Tensor& x) {
  if (x.scalar_type() == ScalarType::Float) return Type::float32;
  if (x.scalar_type() == ScalarType::BFloat16) return Type::bfloat16;
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Half, op,
                  ": x must be float32, bfloat16 or float16");
  return Type::float16;
}

// Returns the address of a tensor that must be like x, or null.
void* like(const char* op, const Tensor& x, bool channels_last, const Tensor& t) {
  bool same = t.is_cuda() && t.get_device_index() == x.get_device_index() &&
              t.scalar_type() == x.scalar_type() && t.dim() == 4;
  for (int i = 0; same && i < 4; ++i) same = t.size(i) == x.size(i);
  same = same && (channels_last ? has_strides(t, {1, 3, 2, 0}) : has_strides(t, {3, 2, 1, 0}));
  STD_TORCH_CHECK(same, op, ": tensors must agree in shape, dtype, device and memory format");
  return t.data_ptr();
}
void* like(const char* op, const Tensor& x, bool channels_last, const std::optional<Tensor>& t) {
  return t ? like(op, x, channels_last, *t) : nullptr;
}

bool per_channel(const Tensor& x, const Tensor& t) {
  return t.is_cuda() && t.get_device_index() == x.get_device_index() && t.dim() == 2 &&
         t.size(0) == x.size(0) && t.size(1) == x.size(1) && (t.size(1) == 1 || t.stride(1) == 1);
}

float* statistic(const char* op, const Tensor& x, const Tensor& t) {
  STD_TORCH_CHECK(per_channel(x, t) && t.scalar_type() == ScalarType::Float &&
                      (t.size(0) == 1 || t.stride(0) == t.size(1)),
                  op, ": statistics must be float32 [B, C], contiguous, on x's device");
  return static_cast<float*>(t.data_ptr());
}

Affine affine_of(const char* op, const Tensor& x, const Tensor& scale, const Tensor& bias) {
  const bool wide = scale.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(
      per_channel(x, scale) && per_channel(x, bias) &&
          (wide || scale.scalar_type() == x.scalar_type()) &&
          bias.scalar_type() == scale.scalar_type(),
      op,
      ": scale and bias must be [B, C] with second stride 1, float32 or x's dtype, on x's device");
  return {scale.data_ptr(), bias.data_ptr(), scale.stride(0), bias.stride(0), wide};
}

// Workspace from torch's allocator; it may be freed once the launches are queued on the current
// stream.
class Scratch {
 public:
  explicit Scratch(const Tensor& like) : like_(like) {}
  void* operator()(int64_t bytes) {
    memory_ = torch::stable::new_empty(like_, {bytes}, ScalarType::Byte);
    return memory_->data_ptr();
  }

 private:
  const Tensor& like_;
  std::optional<Tensor> memory_;
};

void adain_forward(const Tensor& x, const std::optional<Tensor>& residual, const Tensor& scale,
                   const Tensor& bias, double eps, bool relu, Tensor y,
                   const std::optional<Tensor>& h, Tensor mean, Tensor rstd) {
  const Shape shape = shape_of(kForward, x);
  const bool last = shape.channels_last;
  STD_TORCH_CHECK(residual.has_value() == h.has_value(), kForward,
                  ": residual and h come together");
  const Forward<void> arguments = {like(kForward, x, last, x),
                                   like(kForward, x, last, residual),
                                   like(kForward, x, last, y),
                                   like(kForward, x, last, h),
                                   statistic(kForward, x, mean),
                                   statistic(kForward, x, rstd),
                                   nullptr,
                                   affine_of(kForward, x, scale, bias),
                                   float(eps),
                                   relu};
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Scratch scratch(x);
  run_forward(type_of(kForward, x), shape, arguments, std::ref(scratch),
              current_stream(x.get_device_index()));
}

void adain_backward(const Tensor& grad_y, const std::optional<Tensor>& grad_h, const Tensor& h,
                    const Tensor& scale, const Tensor& bias, const Tensor& mean, const Tensor& rstd,
                    bool relu, Tensor grad_x, Tensor grad_scale, Tensor grad_bias) {
  const Shape shape = shape_of(kBackward, h);
  const bool last = shape.channels_last;
  const Backward<void> arguments = {like(kBackward, h, last, grad_y),
                                    like(kBackward, h, last, grad_h),
                                    like(kBackward, h, last, h),
                                    like(kBackward, h, last, grad_x),
                                    statistic(kBackward, h, mean),
                                    statistic(kBackward, h, rstd),
                                    statistic(kBackward, h, grad_scale),
                                    statistic(kBackward, h, grad_bias),
                                    nullptr,
                                    affine_of(kBackward, h, scale, bias),
                                    relu};
  const torch::stable::accelerator::DeviceGuard guard(h.get_device_index());
  Scratch scratch(h);
  run_backward(type_of(kBackward, h), shape, arguments, std::ref(scratch),
               current_stream(h.get_device_index()));
}

#endif
}  // namespace
}  // namespace talkinghead

#ifndef CUDA_ON_CPU
STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CUDA, m) {
  m.impl("adain_forward", TORCH_BOX(&talkinghead::adain_forward));
  m.impl("adain_backward", TORCH_BOX(&talkinghead::adain_backward));
}
#endif
