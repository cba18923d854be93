// Part of cpu/warp_by_landmarks.cpp: sampling of the image at the positions of a row, and its
// gradients.

template <typename T>
SIMD_INLINE Quad gather(const T* from, const int64_t* offsets) {
  return Quad{load_one(from + offsets[0]), load_one(from + offsets[1]), load_one(from + offsets[2]),
              load_one(from + offsets[3])};
}

// The four taps of a row of a plane, of four rows.
struct Patch {
  Quad rows[4];
};

template <typename T>
SIMD_INLINE Patch read_patch(const T* plane, int64_t at, int64_t stride) {
  const T* p = plane + at;
  return {{load4(p), load4(p + stride), load4(p + 2 * stride), load4(p + 3 * stride)}};
}

template <typename T>
SIMD_INLINE Patch read_patch(const T* plane, const Taps& taps) {
  Patch p;
  for (int i = 0; i < 4; ++i) p.rows[i] = gather(plane + taps.rows[i], taps.columns);
  return p;
}

SIMD_INLINE Quad mix(const Patch& p, Quad weights) {
  return p.rows[0] * weights[0] + p.rows[1] * weights[1] + p.rows[2] * weights[2] +
         p.rows[3] * weights[3];
}

// Up to four successive channels; the other lanes are undefined, or 0 if they must not be read.
template <typename T>
SIMD_INLINE Quad read_channels(const T* from, int64_t count, bool inside) {
  if (inside || count >= 4) return load4(from);
  Quad v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = load_one(from + i);
  return v;
}

// Sets the lanes from `count` on to 0.
SIMD_INLINE Quad keep(Quad v, int64_t count) {
  typedef int32_t Lanes __attribute__((vector_size(16)));
  return (Quad)((Lanes)v & (Lanes{0, 1, 2, 3} < static_cast<int32_t>(count)));
}

// Four successive pixels of three channels each.
struct Colours {
  Quad quads[3];
};

template <typename T>
SIMD_INLINE Colours read_colours(const T* from) {
  return {{load4(from), load4(from + 4), load4(from + 8)}};
}

SIMD_INLINE Colours operator*(const Colours& a, const Colours& b) {
  return {{a.quads[0] * b.quads[0], a.quads[1] * b.quads[1], a.quads[2] * b.quads[2]}};
}

// a + b * factor
SIMD_INLINE Colours add(const Colours& a, const Colours& b, float factor) {
  return {{a.quads[0] + b.quads[0] * factor, a.quads[1] + b.quads[1] * factor,
           a.quads[2] + b.quads[2] * factor}};
}

// a pixel's number to its three channels
SIMD_INLINE Colours per_pixel(Quad v) {
  return {{__builtin_shufflevector(v, v, 0, 0, 0, 1), __builtin_shufflevector(v, v, 1, 1, 2, 2),
           __builtin_shufflevector(v, v, 2, 3, 3, 3)}};
}

// a channel's number to every pixel
SIMD_INLINE Colours per_channel(Quad v) {
  return {{__builtin_shufflevector(v, v, 0, 1, 2, 0), __builtin_shufflevector(v, v, 1, 2, 0, 1),
           __builtin_shufflevector(v, v, 2, 0, 1, 2)}};
}

// the sum of the four pixels, in the first three lanes
SIMD_INLINE Quad sum_pixels(const Colours& v) {
  const Quad* q = v.quads;
  return (q[0] + __builtin_shufflevector(q[0], q[1], 3, 4, 5, 5)) +
         (__builtin_shufflevector(q[1], q[2], 2, 3, 4, 4) +
          __builtin_shufflevector(q[2], q[2], 1, 2, 3, 3));
}

template <typename T>
SIMD_INLINE Colours mix_colours(const Warp& w, const T* first, Quad down) {
  Colours sum = {};
  for (int i = 0; i < 4; ++i) sum = add(sum, read_colours(first + i * 3 * w.width), down[i]);
  return sum;
}

template <typename T>
SIMD_INLINE void sample_planes(const Warp& w, const T* image, const Buffers& b) {
  const int64_t plane = w.height * w.width;
  for (int64_t x = 0; x < w.width; ++x) {
    const Quad across = cubic(b.fraction_x[x]), down = cubic(b.fraction_y[x]);
    const int64_t left = b.left[x], top = b.top[x];
    if (is_inside(w, left, top)) {
      const int64_t at = (top - 1) * w.width + left - 1;
      for (int64_t c = 0; c < w.channels; ++c)
        b.values[c * w.width + x] =
            sum4(mix(read_patch(image + c * plane, at, w.width), down) * across);
    } else {
      const Taps taps = taps_of(w, left, top);
      for (int64_t c = 0; c < w.channels; ++c)
        b.values[c * w.width + x] = sum4(mix(read_patch(image + c * plane, taps), down) * across);
    }
  }
}

template <typename T>
SIMD_INLINE void sample_pixels(const Warp& w, const T* image, const Buffers& b) {
  for (int64_t x = 0; x < w.width; ++x) {
    const Quad across = cubic(b.fraction_x[x]), down = cubic(b.fraction_y[x]);
    const bool inside = is_inside(w, b.left[x], b.top[x]);
    if (inside && w.channels == 3) {
      const T* first = image + ((b.top[x] - 1) * w.width + b.left[x] - 1) * 3;
      store4(b.values + 3 * x, sum_pixels(mix_colours(w, first, down) * per_pixel(across)));
      continue;
    }
    const Taps taps = taps_of(w, b.left[x], b.top[x]);
    for (int64_t c = 0; c < w.channels; c += 4) {
      Quad sum = {};
      for (int i = 0; i < 4; ++i) {
        Quad row = {};
        for (int k = 0; k < 4; ++k) {
          const T* from = image + taps.rows[i] + taps.columns[k] + c;
          row += across[k] * read_channels(from, w.channels - c, inside);
        }
        sum += down[i] * row;
      }
      store4(b.values + x * w.channels + c, sum);  // the next pixel overwrites the excess lanes
    }
  }
}

template <typename T>
SIMD_INLINE void write_values(const float* from, T* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
}

template <typename T>
SIMD_INLINE void read_values(const T* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
}

template <typename T>
void forward(const Warp& w, int64_t sample, int64_t row, float* scratch) {
  const Buffers b = cut(w, scratch);
  const int64_t plane = w.height * w.width, first = sample * w.channels * plane;
  const T* image = static_cast<const T*>(w.image) + first;
  T* result = static_cast<T*>(w.result) + first;
  find_places(w, sample, row, b);
  if (w.channels_last) {
    sample_pixels(w, image, b);
    write_values(b.values, result + row * w.width * w.channels, w.width * w.channels);
    return;
  }
  sample_planes(w, image, b);
  for (int64_t c = 0; c < w.channels; ++c)
    write_values(b.values + c * w.width, result + c * plane + row * w.width, w.width);
}

// A pixel of the result: its sampling position and weights, and the gradient of its first channel.
// The functions below return the gradient of the position in pixels, and add the gradients of the
// taps to `grad_image` if that is not null.
struct SamplingPoint {
  int64_t left, top;
  Quad across, down, across_slope, down_slope;
  const float* grad;
};

struct Slope {
  float x, y;
};

SIMD_INLINE void add4(float* to, Quad v) { store4(to, load4(to) + v); }

template <typename T>
SIMD_INLINE Slope spread_planes(const Warp& w, const T* image, float* grad_image,
                                const SamplingPoint& s) {
  const int64_t plane = w.height * w.width, at = (s.top - 1) * w.width + s.left - 1;
  const bool inside = is_inside(w, s.left, s.top);
  const Taps taps = inside ? Taps{} : taps_of(w, s.left, s.top);
  Quad slope_x = {}, slope_y = {};
  for (int64_t c = 0; c < w.channels; ++c) {
    const float grad = s.grad[c * w.width];
    if (w.grad_motion) {
      const Patch patch =
          inside ? read_patch(image + c * plane, at, w.width) : read_patch(image + c * plane, taps);
      slope_x += grad * mix(patch, s.down);
      slope_y += grad * mix(patch, s.down_slope);
    }
    if (!grad_image) continue;
    float* to = grad_image + c * plane;
    for (int i = 0; i < 4; ++i) {
      const Quad share = s.across * (s.down[i] * grad);
      if (inside) {
        add4(to + at + i * w.width, share);
      } else {
        for (int k = 0; k < 4; ++k) to[taps.rows[i] + taps.columns[k]] += share[k];
      }
    }
  }
  return {sum4(slope_x * s.across_slope), sum4(slope_y * s.across)};
}

template <typename T>
SIMD_INLINE Slope spread_colours(const Warp& w, const T* image, float* grad_image,
                                 const SamplingPoint& s) {
  const int64_t at = ((s.top - 1) * w.width + s.left - 1) * 3;
  const Quad grad = Quad{s.grad[0], s.grad[1], s.grad[2], 0};
  if (grad_image) {
    const Colours share = per_channel(grad) * per_pixel(s.across);
    for (int i = 0; i < 4; ++i) {
      float* to = grad_image + at + i * 3 * w.width;
      for (int j = 0; j < 3; ++j) add4(to + 4 * j, share.quads[j] * s.down[i]);
    }
  }
  if (!w.grad_motion) return {};
  const Colours row = mix_colours(w, image + at, s.down);
  const Colours column = mix_colours(w, image + at, s.down_slope);
  return {sum4(grad * sum_pixels(row * per_pixel(s.across_slope))),
          sum4(grad * sum_pixels(column * per_pixel(s.across)))};
}

template <typename T>
SIMD_INLINE Slope spread_pixels(const Warp& w, const T* image, float* grad_image,
                                const SamplingPoint& s) {
  const bool inside = is_inside(w, s.left, s.top);
  if (inside && w.channels == 3) return spread_colours(w, image, grad_image, s);
  const Taps taps = taps_of(w, s.left, s.top);
  Quad slope_x = {}, slope_y = {};
  for (int64_t c = 0; c < w.channels; c += 4) {
    const int64_t count = w.channels - c < 4 ? w.channels - c : 4;
    const Quad grad = read_channels(s.grad + c, count, false);
    for (int i = 0; i < 4; ++i) {
      Quad row = {}, row_slope = {};
      for (int k = 0; k < 4; ++k) {
        const int64_t at = taps.rows[i] + taps.columns[k] + c;
        if (w.grad_motion) {
          const Quad value = keep(read_channels(image + at, count, inside), count);
          row += s.across[k] * value;
          row_slope += s.across_slope[k] * value;
        }
        if (!grad_image) continue;
        const Quad share = grad * (s.down[i] * s.across[k]);
        if (count == 4) {
          add4(grad_image + at, share);
        } else {
          for (int64_t lane = 0; lane < count; ++lane) grad_image[at + lane] += share[lane];
        }
      }
      slope_x += grad * (s.down[i] * row_slope);
      slope_y += grad * (s.down_slope[i] * row);
    }
  }
  return {sum4(slope_x), sum4(slope_y)};
}

// Adds a row's gradient of shifts, in b.shift_x and b.shift_y, to that of the field: the adjoint of
// find_places.
SIMD_INLINE void reduce_places(const Warp& w, int64_t sample, int64_t row, const Buffers& b) {
  const int64_t size = w.rows * w.columns;
  const int64_t first = w.down->first[row] * w.columns, second = w.down->second[row] * w.columns;
  const float lower = w.down->fraction[row], upper = 1 - lower;
  for (int64_t plane = 0; plane < 2; ++plane) {
    const float* grad = plane ? b.shift_y : b.shift_x;
    const float scale = static_cast<float>(plane ? w.height : w.width);
    float* sums = b.row + plane * w.columns;
    for (int64_t i = 0; i < w.columns; ++i) sums[i] = 0;
    for (int64_t i = 0; i < w.width; ++i) {
      const float after = w.across->fraction[i] * grad[i];
      sums[w.across->first[i]] += grad[i] - after;
      sums[w.across->second[i]] += after;
    }
    float* field = w.grad_motion + (sample * 2 + plane) * size;
    for (int64_t i = 0; i < w.columns; ++i) {
      field[first + i] += upper * scale * sums[i];
      field[second + i] += lower * scale * sums[i];
    }
  }
}

SIMD_INLINE void clear(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

template <typename T>
void backward(const Warp& w, int64_t sample, float* scratch) {
  const Buffers b = cut(w, scratch);
  const int64_t plane = w.height * w.width, first = sample * w.channels * plane;
  const int64_t field = 2 * w.rows * w.columns, line = w.width * w.channels;
  const T* image = static_cast<const T*>(w.image) + first;
  const T* grad = static_cast<const T*>(w.grad) + first;
  float* grad_image = w.grad_image ? w.grad_image + first : nullptr;
  if (grad_image) clear(grad_image, w.channels * plane);
  if (w.grad_motion) clear(w.grad_motion + sample * field, field);
  for (int64_t row = 0; row < w.height; ++row) {
    find_places(w, sample, row, b);
    if (w.channels_last) {
      read_values(grad + row * line, b.values, line);
    } else {
      for (int64_t c = 0; c < w.channels; ++c)
        read_values(grad + c * plane + row * w.width, b.values + c * w.width, w.width);
    }
    const int64_t step = w.channels_last ? w.channels : 1;
    for (int64_t x = 0; x < w.width; ++x) {
      const float right = b.fraction_x[x], below = b.fraction_y[x];
      const SamplingPoint point = {b.left[x],          b.top[x],           cubic(right),
                                   cubic(below),       cubic_slope(right), cubic_slope(below),
                                   b.values + x * step};
      const Slope slope = w.channels_last ? spread_pixels(w, image, grad_image, point)
                                          : spread_planes(w, image, grad_image, point);
      b.shift_x[x] = slope.x;
      b.shift_y[x] = slope.y;
    }
    if (w.grad_motion) reduce_places(w, sample, row, b);
  }
}
