// Part of cuda/warp_by_landmarks.cu: the functions that torch calls.
#pragma once

namespace talkinghead {
namespace {

bool has_layout(const Tensor& tensor, bool channels_last) {
  const int order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};
  int64_t stride = 1;
  for (const int dim : order[channels_last]) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != stride) return false;
    stride *= tensor.size(dim);
  }
  return true;
}

// Checks what would read or write out of bounds; Python has checked the rest.
void check_like(const char* op, const Tensor& tensor, const Tensor& image, ScalarType dtype,
                const Sizes& s) {
  bool fits = tensor.dim() == 4 && tensor.scalar_type() == dtype && tensor.is_cuda() &&
              tensor.get_device_index() == image.get_device_index();
  for (int dim = 0; fits && dim < 4; ++dim) fits = tensor.size(dim) == image.size(dim);
  STD_TORCH_CHECK(
      fits && has_layout(tensor, s.channels_last), op,
      ": image, result and gradients must agree in size, dtype, device and memory format");
}

float* field_of(const char* op, const Tensor& motion, const Tensor& image) {
  STD_TORCH_CHECK(
      motion.dim() == 4 && motion.size(0) == image.size(0) && motion.size(1) == 2 &&
          motion.numel() > 0 && motion.scalar_type() == ScalarType::Float && motion.is_cuda() &&
          motion.get_device_index() == image.get_device_index() && motion.is_contiguous(),
      op, ": motion must be float32 [B, 2, h, w], contiguous, not empty, on the image's device");
  return static_cast<float*>(motion.data_ptr());
}

Sizes sizes_of(const char* op, const Tensor& image, const Tensor& motion) {
  STD_TORCH_CHECK(image.dim() == 4 && image.numel() > 0 && image.is_cuda(), op,
                  ": image must be [B, C, H, W], not empty, on CUDA");
  field_of(op, motion, image);
  for (const auto& tensor : {image, motion})
    STD_TORCH_CHECK(tensor.size(2) <= kLongestSide && tensor.size(3) <= kLongestSide &&
                        tensor.size(1) < (1 << 30),
                    op, ": sides must be at most ", kLongestSide);
  Sizes s = {image.size(0),
             static_cast<int>(image.size(1)),
             static_cast<int>(image.size(2)),
             static_cast<int>(image.size(3)),
             static_cast<int>(motion.size(2)),
             static_cast<int>(motion.size(3)),
             !has_layout(image, false)};
  check_like(op, image, image, image.scalar_type(), s);
  return s;
}

// Calls `run` with a value of the dtype's type.
template <class F>
void for_dtype(const char* op, ScalarType dtype, const F& run) {
  if (dtype == ScalarType::Float) return run(float());
  if (dtype == ScalarType::BFloat16) return run(bfloat16());
  STD_TORCH_CHECK(dtype == ScalarType::Half, op, ": image must be float32, bfloat16 or float16");
  run(half());
}

void landmark_motion(const Tensor& source, const Tensor& target, Tensor motion) {
  for (const auto& points : {source, target})
    STD_TORCH_CHECK(
        points.dim() == 3 && points.size(0) == motion.size(0) && points.size(1) == source.size(1) &&
            points.size(1) < (1 << 30) && points.size(2) == 2 &&
            points.scalar_type() == ScalarType::Float && points.is_cuda() &&
            points.get_device_index() == motion.get_device_index() && points.is_contiguous(),
        kMotion, ": points must be float32 [B, N, 2], contiguous, on CUDA");
  STD_TORCH_CHECK(motion.dim() == 4 && motion.size(1) == 2 && motion.size(2) == motion.size(3) &&
                      motion.size(2) <= kLongestSide && motion.scalar_type() == ScalarType::Float &&
                      motion.is_contiguous(),
                  kMotion, ": motion must be float32 [B, 2, grid, grid], contiguous, grid at most ",
                  kLongestSide);
  const torch::stable::accelerator::DeviceGuard guard(motion.get_device_index());
  const Points points = {static_cast<const float*>(source.data_ptr()),
                         static_cast<const float*>(target.data_ptr()),
                         static_cast<int>(source.size(1)), static_cast<int>(motion.size(2))};
  make_motion(points, motion.size(0), static_cast<float*>(motion.data_ptr()),
              current_stream(motion.get_device_index()));
}

void warp_forward(const Tensor& image, const Tensor& motion, Tensor result) {
  const Sizes s = sizes_of(kForward, image, motion);
  check_like(kForward, result, image, image.scalar_type(), s);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const cudaStream_t stream = current_stream(image.get_device_index());
  for_dtype(kForward, image.scalar_type(), [&](auto type) {
    forward<decltype(type)>(s, image.data_ptr(), field_of(kForward, motion, image),
                            result.data_ptr(), stream);
  });
}

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& motion,
                   const std::optional<Tensor>& grad_image,
                   const std::optional<Tensor>& grad_motion) {
  const Sizes s = sizes_of(kBackward, image, motion);
  check_like(kBackward, grad, image, image.scalar_type(), s);
  Backward b = {};
  b.grad = grad.data_ptr();
  b.image = image.data_ptr();
  b.motion = field_of(kBackward, motion, image);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  // Workspace from torch's allocator; it may be freed once the launches are queued on the current
  // stream.
  std::optional<Tensor> sums, largest, slopes;
  if (grad_image) {
    check_like(kBackward, *grad_image, image, ScalarType::Float, s);
    b.grad_image = static_cast<float*>(grad_image->data_ptr());
    sums = torch::stable::new_empty(image, {s.batch * s.values()}, ScalarType::Long);
    largest = torch::stable::new_empty(image, {s.batch}, ScalarType::Int);
    b.sums = static_cast<Sum*>(sums->data_ptr());
    b.largest = static_cast<unsigned*>(largest->data_ptr());
  }
  if (grad_motion) {
    b.grad_motion = field_of(kBackward, *grad_motion, image);
    STD_TORCH_CHECK(grad_motion->size(2) == s.rows && grad_motion->size(3) == s.columns, kBackward,
                    ": the gradient of motion must be of its size");
    slopes = torch::stable::new_empty(image, {s.batch * 2 * s.area()}, ScalarType::Float);
    b.slopes = static_cast<float*>(slopes->data_ptr());
  }
  if (!grad_image && !grad_motion) return;
  const cudaStream_t stream = current_stream(image.get_device_index());
  for_dtype(kBackward, image.scalar_type(),
            [&](auto type) { backward<decltype(type)>(s, b, stream); });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CUDA, m) {
  m.impl("landmark_motion", TORCH_BOX(&talkinghead::landmark_motion));
  m.impl("warp_forward", TORCH_BOX(&talkinghead::warp_forward));
  m.impl("warp_backward", TORCH_BOX(&talkinghead::warp_backward));
}
