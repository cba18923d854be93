// Entry point of the polylines; parts are [indices], [lengths], [colours] as for draw_polylines.
#include "../../csrc/cuda/rasterize.cu"

extern "C" const char* run_draw(const float* points, int64_t batch, int64_t points_per_image,
                                int64_t size, const int64_t* indices, int64_t index_count,
                                const int64_t* lengths, const int64_t* colours, int64_t parts,
                                float* image) {
  return cuda_emulator::message_of([&] {
    talkinghead::draw(points, batch, points_per_image, size, {indices, indices + index_count},
                      {lengths, lengths + parts}, {colours, colours + 3 * parts}, image, nullptr);
  });
}
