// Entry points of the warp by landmarks.
#include "../../csrc/cuda/warp_by_landmarks.cu"

namespace {

using namespace talkinghead;

Sizes sizes_of(const int64_t* n) {
  return {n[0], int(n[1]), int(n[2]), int(n[3]), int(n[4]), int(n[5]), n[6] != 0};
}

template <class F>
void for_dtype(int64_t dtype, const F& run) {
  if (dtype == 0) return run(float());
  if (dtype == 1) return run(bfloat16());
  run(half());
}

}  // namespace

extern "C" const char* run_motion(const float* source, const float* target, int64_t batch,
                                  int64_t count, int64_t grid, float* motion) {
  return cuda_emulator::message_of(
      [&] { make_motion({source, target, int(count), int(grid)}, batch, motion, nullptr); });
}

// sizes: batch, channels, height, width, rows, columns, whether channels_last
extern "C" const char* run_forward(int64_t dtype, const int64_t* sizes, const void* image,
                                   const float* motion, void* result) {
  return cuda_emulator::message_of([&] {
    for_dtype(dtype, [&](auto type) {
      forward<decltype(type)>(sizes_of(sizes), image, motion, result, nullptr);
    });
  });
}

extern "C" const char* run_backward(int64_t dtype, const int64_t* sizes, const void* grad,
                                    const void* image, const float* motion, float* grad_image,
                                    float* grad_motion) {
  return cuda_emulator::message_of([&] {
    const Sizes s = sizes_of(sizes);
    const auto scratch = [](int64_t bytes) { return cuda_emulator_allocate(size_t(bytes), 8); };
    Backward b = {grad, image, motion, grad_image, grad_motion, nullptr, nullptr, nullptr};
    if (grad_image) b.sums = static_cast<Sum*>(scratch(8 * s.batch * s.values()));
    if (grad_image) b.largest = static_cast<unsigned*>(scratch(4 * s.batch));
    if (grad_motion) b.slopes = static_cast<float*>(scratch(8 * s.batch * s.area()));
    for_dtype(dtype, [&](auto type) { backward<decltype(type)>(s, b, nullptr); });
  });
}
