// Entry points of csrc/cuda/adain.cu for ctypes.
#include "../../csrc/cuda/adain.cu"

namespace {

using namespace talkinghead;

void describe(const Plan& p, int64_t* plan) {
  const Layout& l = p.layout;
  const int64_t values[] = {
      p.on_chip, p.pack_bytes, p.packs, p.threads, p.tiles_per_block,       l.lanes,   l.parts,
      l.ranks,   p.group,      l.tiles, l.rows,    int64_t(p.shared_bytes), p.partials};
  std::copy(std::begin(values), std::end(values), plan);
}

void* scratch(int64_t bytes) { return cuda_emulator_allocate(size_t(bytes), 16); }

}  // namespace

extern "C" {

const char* plan(int64_t element_bytes, int64_t batch, int64_t channels, int64_t area, int64_t last,
                 int64_t aligned, int64_t held, int64_t* out) {
  return cuda_emulator::message_of([&] {
    const Device d = current_device("plan");
    describe(
        plan_adain({int(element_bytes), batch, channels, area, last != 0, aligned != 0, int(held)},
                   d.multiprocessors, uses_clusters("plan", kForwardCode), d.l2_bytes),
        out);
  });
}

const char* forward(int64_t type, int64_t batch, int64_t channels, int64_t area, int64_t last,
                    const void* x, const void* residual, const void* scale, int64_t scale_stride,
                    const void* bias, int64_t bias_stride, int64_t wide, double eps, int64_t relu,
                    void* y, void* h, float* mean, float* rstd, int64_t* out) {
  return cuda_emulator::message_of([&] {
    const Forward<void> f = {
        x,          residual, y,       h,
        mean,       rstd,     nullptr, {scale, bias, scale_stride, bias_stride, wide != 0},
        float(eps), relu != 0};
    describe(run_forward(Type(type), {batch, channels, area, last != 0}, f, scratch, nullptr), out);
  });
}

const char* backward(int64_t type, int64_t batch, int64_t channels, int64_t area, int64_t last,
                     const void* grad_y, const void* grad_h, const void* h, const void* scale,
                     int64_t scale_stride, const void* bias, int64_t bias_stride, int64_t wide,
                     const float* mean, const float* rstd, int64_t relu, void* grad_x,
                     float* grad_scale, float* grad_bias, int64_t* out) {
  return cuda_emulator::message_of([&] {
    const Backward<void> b = {grad_y,     grad_h,
                              h,          grad_x,
                              mean,       rstd,
                              grad_scale, grad_bias,
                              nullptr,    {scale, bias, scale_stride, bias_stride, wide != 0},
                              relu != 0};
    describe(run_backward(Type(type), {batch, channels, area, last != 0}, b, scratch, nullptr),
             out);
  });
}
}
