// Entry points of the spectral norm. A layer is a row of eleven numbers: addresses of weight, u, v,
// the folded tensor and the gradient of the weight; then rows, inputs, kernel area, form, whether
// channels_last, and the offsets of u and v in `constants`.
#include "../../csrc/cuda/spectral_norm.cu"

namespace {

using namespace talkinghead;

std::vector<Layer> layers_of(const int64_t* rows, int64_t count, float* constants) {
  std::vector<Layer> layers;
  for (int64_t i = 0; i < count; ++i, rows += 11) {
    Layer layer = {};
    layer.weight = reinterpret_cast<const float*>(rows[0]);
    layer.u = reinterpret_cast<float*>(rows[1]), layer.v = reinterpret_cast<float*>(rows[2]);
    layer.folded = reinterpret_cast<void*>(rows[3]),
    layer.grad_weight = reinterpret_cast<float*>(rows[4]);
    layer.rows = int(rows[5]), layer.inputs = int(rows[6]), layer.area = int(rows[7]);
    layer.form = Form(rows[8]), layer.channels_last = rows[9] != 0;
    if (constants) layer.sigma = constants + i, layer.copy = constants + rows[10];
    layers.push_back(layer);
  }
  return layers;
}

}  // namespace

extern "C" int64_t scratch_floats(const int64_t* rows, int64_t count, int64_t task,
                                  int64_t iterate) {
  return scratch_of("test", layers_of(rows, count, nullptr).data(), count, Task(task),
                    iterate != 0);
}

extern "C" const char* run_power_iteration(const int64_t* rows, int64_t count, double eps,
                                           float* scratch) {
  return cuda_emulator::message_of([&] {
    power_iteration(layers_of(rows, count, nullptr).data(), count, float(eps), scratch, nullptr);
  });
}

extern "C" const char* run_normalise_forward(const int64_t* rows, int64_t count, float* constants,
                                             double eps, int64_t dtype, float* scratch) {
  return cuda_emulator::message_of([&] {
    const auto layers = layers_of(rows, count, constants);
    const auto run = dtype == 0   ? normalise_forward<float>
                     : dtype == 1 ? normalise_forward<bfloat16>
                                  : normalise_forward<half>;
    run(layers.data(), count, float(eps), scratch, nullptr);
  });
}

extern "C" const char* run_normalise_backward(const int64_t* rows, int64_t count, float* constants,
                                              double eps, int64_t dtype, float* scratch) {
  return cuda_emulator::message_of([&] {
    auto layers = layers_of(rows, count, constants);
    for (auto& layer : layers) layer.u = layer.copy;
    const auto run = dtype == 0   ? normalise_backward<float>
                     : dtype == 1 ? normalise_backward<bfloat16>
                                  : normalise_backward<half>;
    run(layers.data(), count, float(eps), scratch, nullptr);
  });
}
