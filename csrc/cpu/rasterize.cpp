// Anti-aliased polylines on the CPU. Formula: kernels/talkinghead_kernels/rasterize.py.
//
// Only pixels near a segment are computed. A task is a band of rows of one image; bands are
// independent.
#include "torch_abi.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace talkinghead {
namespace {

constexpr int64_t kBand = 64;  // rows
constexpr double kFar = 1e4;   // pixels; segments that end farther away, or at NaN, are not drawn

struct Segment {
  float x, y, dx, dy;              // start, and the vector to the end
  float along_x, along_y;          // (dx, dy) / length^2
  float top, bottom, left, right;  // bounds of the covered pixels
};

// Clips a segment to the neighbourhood of the image, in double, so that points far outside need
// neither precision nor time. Returns whether anything remains.
bool make_segment(const float* a, const float* b, double size, float reach, Segment& s) {
  const double ends[2][2] = {{a[0], a[1]}, {b[0], b[1]}};
  double enter = 0, leave = 1;
  for (int axis = 0; axis < 2; ++axis) {
    const double start = ends[0][axis], step = ends[1][axis] - start, low = -reach - 1,
                 high = size + reach + 1;
    if (!(std::abs(start) <= kFar && std::abs(ends[1][axis]) <= kFar)) return false;
    if (step == 0) {
      if (start < low || start > high) return false;
      continue;
    }
    const double first = (low - start) / step, second = (high - start) / step;
    enter = std::max(enter, std::min(first, second));
    leave = std::min(leave, std::max(first, second));
  }
  if (enter > leave) return false;
  const double dx = ends[1][0] - ends[0][0], dy = ends[1][1] - ends[0][1];
  s.x = static_cast<float>(ends[0][0] + enter * dx);
  s.y = static_cast<float>(ends[0][1] + enter * dy);
  s.dx = static_cast<float>((leave - enter) * dx);
  s.dy = static_cast<float>((leave - enter) * dy);
  const float squared =
      std::max(s.dx * s.dx + s.dy * s.dy, 1e-12f);  // a segment of no length is a point
  s.along_x = s.dx / squared;
  s.along_y = s.dy / squared;
  s.left = std::min(s.x, s.x + s.dx) - reach;
  s.right = std::max(s.x, s.x + s.dx) + reach;
  s.top = std::min(s.y, s.y + s.dy) - reach;
  s.bottom = std::max(s.y, s.y + s.dy) + reach;
  return true;
}

// Updates the squared distances of the pixels [begin, end) of a row that the segment may cover, and
// returns their range.
void near(const Segment& s, int64_t row, int64_t size, float reach, float* squared, int64_t& begin,
          int64_t& end) {
  const float y = static_cast<float>(row) + 0.5f - s.y;
  float left = s.left, right = s.right;
  if (std::abs(s.dy) > 1e-3f) {  // between the two lines at the segment's sides
    const float middle = s.x + y * (s.dx / s.dy);
    const float half = reach * std::sqrt(s.dx * s.dx + s.dy * s.dy) / std::abs(s.dy);
    left = std::max(left, middle - half);
    right = std::min(right, middle + half);
  }
  begin = std::max<int64_t>(0, static_cast<int64_t>(std::floor(left)) - 1);
  end = std::min<int64_t>(size, static_cast<int64_t>(std::ceil(right)) + 1);
  for (int64_t column = begin; column < end; ++column) {
    const float x = static_cast<float>(column) + 0.5f - s.x;
    const float t = std::min(1.0f, std::max(0.0f, x * s.along_x + y * s.along_y));
    const float across = x - t * s.dx, down = y - t * s.dy;
    squared[column] = std::min(squared[column], across * across + down * down);
  }
}

struct Drawing {
  const float* points;
  float* image;
  int64_t count, size;
  float radius;
  const std::vector<int64_t>&indices, &lengths, &colours;
};

// `squared` holds `size` infinities before and after; `segments` has room for the longest part.
void draw_band(const Drawing& d, int64_t face, int64_t first_row, int64_t last_row, float* squared,
               Segment* segments) {
  const float reach = d.radius + 0.5f, infinity = std::numeric_limits<float>::infinity();
  const float* points = d.points + face * d.count * 2;
  float* image = d.image + face * 3 * d.size * d.size;
  for (int64_t channel = 0; channel < 3; ++channel) {
    float* plane = image + channel * d.size * d.size;
    std::fill(plane + first_row * d.size, plane + last_row * d.size, -1.0f);
  }
  const int64_t* index = d.indices.data();
  for (size_t part = 0; part < d.lengths.size(); index += d.lengths[part++]) {
    int64_t count = 0;
    float top = infinity, bottom = -infinity;
    for (int64_t i = 0; i + 1 < d.lengths[part]; ++i) {
      if (!make_segment(points + 2 * index[i], points + 2 * index[i + 1],
                        static_cast<double>(d.size), reach, segments[count]))
        continue;
      top = std::min(top, segments[count].top);
      bottom = std::max(bottom, segments[count++].bottom);
    }
    if (!count) continue;
    float paint[3];
    for (int channel = 0; channel < 3; ++channel)
      paint[channel] = static_cast<float>(d.colours[3 * part + channel]) / 255 * 2 - 1;
    const int64_t begin_row = std::max(first_row, static_cast<int64_t>(std::floor(top)) - 1);
    const int64_t end_row = std::min(last_row, static_cast<int64_t>(std::ceil(bottom)) + 1);
    for (int64_t row = begin_row; row < end_row; ++row) {
      int64_t left = d.size, right = 0;
      for (int64_t i = 0; i < count; ++i) {
        const float y = static_cast<float>(row) + 0.5f;
        if (y < segments[i].top || y > segments[i].bottom) continue;
        int64_t begin, end;
        near(segments[i], row, d.size, reach, squared, begin, end);
        left = std::min(left, begin);
        right = std::max(right, end);
      }
      for (int64_t column = left; column < right; ++column) {
        if (squared[column] >= reach * reach) {
          squared[column] = infinity;
          continue;
        }
        const float coverage = std::min(1.0f, reach - std::sqrt(squared[column]));
        squared[column] = infinity;
        for (int channel = 0; channel < 3; ++channel) {
          float& pixel = image[(channel * d.size + row) * d.size + column];
          pixel += coverage * (paint[channel] - pixel);
        }
      }
    }
  }
}

void draw_polylines(const Tensor& points, std::vector<int64_t> indices,
                    std::vector<int64_t> lengths, std::vector<int64_t> colours, Tensor image) {
  const int64_t faces = points.size(0), count = points.size(1), size = image.size(2);
  int64_t total = 0, longest = 0;
  for (const int64_t length : lengths) {
    STD_TORCH_CHECK(length >= 2, "draw_polylines: a part must have two indices or more, got ",
                    length);
    total += length;
    longest = std::max(longest, length);
  }
  STD_TORCH_CHECK(
      total == static_cast<int64_t>(indices.size()) && colours.size() == 3 * lengths.size(),
      "draw_polylines: lengths must add up to the indices, with three numbers of colour each");
  for (const int64_t index : indices)
    STD_TORCH_CHECK(0 <= index && index < count, "draw_polylines: no point has index ", index);
  STD_TORCH_CHECK(
      points.is_contiguous() && image.is_contiguous() &&
          points.scalar_type() == ScalarType::Float && image.scalar_type() == ScalarType::Float &&
          points.size(2) == 2 && image.numel() == faces * 3 * size * size,
      "draw_polylines: points [B, N, 2] and image [B, 3, size, size] must be float32 and "
      "contiguous");
  const Drawing d = {static_cast<const float*>(points.data_ptr()),
                     static_cast<float*>(image.data_ptr()),
                     count,
                     size,
                     std::max(1.0f, static_cast<float>(size) / 256),
                     indices,
                     lengths,
                     colours};
  const int64_t bands = (size + kBand - 1) / kBand;
  torch::stable::parallel_for(0, faces * bands, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> squared(new float[size]);
    const std::unique_ptr<Segment[]> segments(new Segment[longest]);
    std::fill(squared.get(), squared.get() + size, std::numeric_limits<float>::infinity());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % bands * kBand;
      draw_band(d, i / bands, first, std::min(first + kBand, size), squared.get(), segments.get());
    }
  });
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("draw_polylines", TORCH_BOX(&talkinghead::draw_polylines));
}
