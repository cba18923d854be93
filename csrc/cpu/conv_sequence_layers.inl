// Part of cpu/conv_sequence.cpp, compiled once for each instruction set: the work of a task.

// Rows and vectors whose sums fill the registers in a product of matrices.
constexpr int kRows = SIMD_BYTES == 64 ? 8 : 4;
constexpr int kVectors = 3;
constexpr int kPixels = 4;  // neighbours that one weight of the filter is loaded for

// The rows of the widened map (of the input, for a convolution) that a task needs, with zeros
// around the image, and the rows of the output.
struct Band {
  int64_t begin, end;   // rows of the output
  int64_t top, bottom;  // rows of the input, outside the image too
  int64_t across;       // pixels of a row with zeros
  int64_t step;         // floats of a pixel; complete vectors of a widened one
};

SIMD_INLINE Band band_of(const Layer& p, int64_t begin, int64_t end) {
  const int64_t border = p.kernel / 2;
  return {begin,
          end,
          begin * p.stride - border,
          (end - 1) * p.stride + border + 1,
          p.width + 2 * border,
          p.wide ? whole(p.wide, kLanes) : p.inputs};
}

// Floats of the widened map of some rows of the output, or of a copy of the input.
int64_t widened_size(const Layer& p, int64_t rows) {
  if (p.is_pointwise()) return 0;
  const Band band = band_of(p, 0, rows);
  return (band.bottom - band.top) * band.across * band.step;
}

int64_t scratch_size(const Layer& p, int64_t rows) {
  return widened_size(p, rows) + rows * p.width_out * whole(p.wide, kLanes);
}

// ---- products of matrices

// A matrix by which rows are multiplied, its bias, and the distances of rows in memory. A row of
// the input has parts of `inputs` floats, at a distance.
struct Product {
  const float *weight, *bias;
  int64_t parts, part_step, inputs, outputs;
  int64_t from_step, to_step, added_step;
  bool has_relu;
};

// Multiplies kCount rows, from `column` on; `added` may be null.
template <int kCount, int kColumns, bool kPart>
void multiply(const Product& p, const float* from, int64_t column, float* to, const float* added) {
  const Tail tail = tail_of(p.outputs - column - (kColumns - 1) * kLanes);
  Floats sums[kCount][kColumns];
  const float* weight = p.weight + column;
#pragma GCC unroll 3
  for (int i = 0; i < kColumns; ++i) {
    const float* at = p.bias + column + i * kLanes;
    const Floats bias = kPart && i + 1 == kColumns ? load_tail(at, tail) : load(at);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) sums[r][i] = bias;
  }
  for (int64_t part = 0; part < p.parts; ++part, from += p.part_step) {
    for (int64_t k = 0; k < p.inputs; ++k, weight += p.outputs) {
      Floats columns[kColumns];
#pragma GCC unroll 3
      for (int i = 0; i < kColumns; ++i) {
        const float* at = weight + i * kLanes;
        columns[i] = kPart && i + 1 == kColumns ? load_tail(at, tail) : load(at);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 3
        for (int i = 0; i < kColumns; ++i)
          sums[r][i] = sums[r][i] + columns[i] * (from[r * p.from_step + k] - Floats{});
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 3
    for (int i = 0; i < kColumns; ++i) {
      const bool in_part = kPart && i + 1 == kColumns;
      Floats v = sums[r][i];
      if (p.has_relu) v = relu(v);
      if (added) {
        const float* at = added + r * p.added_step + column + i * kLanes;
        v = v + (in_part ? load_tail(at, tail) : load(at));
      }
      float* at = to + r * p.to_step + column + i * kLanes;
      if (in_part) {
        store_tail(at, v, tail);
      } else {
        store(at, v);
      }
    }
  }
}

using Multiply = void(const Product& p, const float* from, int64_t column, float* to,
                      const float* added);

template <int kCount>
SIMD_INLINE Multiply* multiply_of(int64_t rows, int64_t columns) {
  if constexpr (kCount > 1)
    if (rows < kCount) return multiply_of<kCount - 1>(rows, columns);
  if (columns >= 3 * kLanes) return multiply<kCount, 3, false>;
  if (columns > 2 * kLanes) return multiply<kCount, 3, true>;
  if (columns == 2 * kLanes) return multiply<kCount, 2, false>;
  if (columns > kLanes) return multiply<kCount, 2, true>;
  return columns == kLanes ? multiply<kCount, 1, false> : multiply<kCount, 1, true>;
}

// Multiplies adjacent rows, from `column` on.
SIMD_INLINE void multiply_rows(const Product& p, const float* from, int64_t count, int64_t column,
                               float* to, const float* added) {
  for (int64_t row = 0; row < count; row += kRows)
    multiply_of<kRows>(count - row, p.outputs - column)(
        p, from + row * p.from_step, column, to + row * p.to_step,
        added ? added + row * p.added_step : nullptr);
}

// ---- widening: 1x1 convolution and ReLU

SIMD_INLINE void widen(const Layer& p, const Band& band, int64_t sample, float* widened) {
  const int64_t border = p.kernel / 2, row_size = band.across * band.step;
  const float* x = p.x + sample * p.height * p.width * p.inputs;
  for (int64_t row = band.top; row < band.bottom; ++row) {
    float* to = widened + (row - band.top) * row_size;
    const bool inside = row >= 0 && row < p.height;
    const int64_t zeros = inside ? border * band.step : row_size;
    for (int64_t i = 0; i < zeros; i += kLanes) store(to + i, Floats{});
    for (int64_t i = row_size - zeros; i < row_size; i += kLanes) store(to + i, Floats{});
  }
  const Product product = {p.widen, p.widen_bias, 1,         0, p.inputs,
                           p.wide,  p.inputs,     band.step, 0, true};
  const int64_t first = band.top > 0 ? band.top : 0;
  const int64_t last = band.bottom < p.height ? band.bottom : p.height;
  for (int64_t column = 0; column < p.wide; column += kVectors * kLanes)
    for (int64_t row = first; row < last; ++row)
      multiply_rows(product, x + row * p.width * p.inputs, p.width, column,
                    widened + (row - band.top) * row_size + border * band.step, nullptr);
}

// ---- filtering: depthwise convolution and ReLU

// kCount adjacent pixels of the output, and a vector of channels.
template <int kCount>
void filter_pixels(const Layer& p, const Band& band, const float* from, int64_t channel,
                   const Tail& tail, float* to) {
  const bool in_part = tail.count < kLanes;
  Floats sums[kCount];
  const float* at = p.filter_bias + channel;
  const Floats bias = in_part ? load_tail(at, tail) : load(at);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) sums[i] = bias;
  const float* weight = p.filter + channel;
  for (int64_t down = 0; down < p.kernel; ++down) {
    const float* row = from + down * band.across * band.step + channel;
    for (int64_t across = 0; across < p.kernel; ++across, row += band.step, weight += p.wide) {
      const Floats factor = in_part ? load_tail(weight, tail) : load(weight);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i)
        sums[i] = sums[i] + factor * load(row + i * p.stride * band.step);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) store(to + i * band.step + channel, relu(sums[i]));
}

SIMD_INLINE void filter(const Layer& p, const Band& band, const float* widened, float* filtered) {
  for (int64_t channel = 0; channel < p.wide; channel += kLanes) {
    const Tail tail = tail_of(p.wide - channel < kLanes ? p.wide - channel : kLanes);
    for (int64_t row = 0; row < band.end - band.begin; ++row) {
      const float* from = widened + row * p.stride * band.across * band.step;
      float* to = filtered + row * p.width_out * band.step;
      int64_t column = 0;
      for (; column + kPixels <= p.width_out; column += kPixels)
        filter_pixels<kPixels>(p, band, from + column * p.stride * band.step, channel, tail,
                               to + column * band.step);
      for (; column < p.width_out; ++column)
        filter_pixels<1>(p, band, from + column * p.stride * band.step, channel, tail,
                         to + column * band.step);
    }
  }
}

// ---- convolutions

// Copies the rows of the input that a band needs, with zeros around the image.
SIMD_INLINE void copy_rows(const Layer& p, const Band& band, int64_t sample, float* to) {
  const int64_t border = p.kernel / 2 * p.inputs, row_size = p.width * p.inputs;
  const float* x = p.x + sample * p.height * row_size;
  for (int64_t row = band.top; row < band.bottom; ++row, to += row_size + 2 * border) {
    const bool inside = row >= 0 && row < p.height;
    const int64_t zeros = inside ? border : row_size + 2 * border;
    for (int64_t i = 0; i < zeros; ++i) to[i] = 0;
    if (!inside) continue;
    __builtin_memcpy(to + border, x + row * row_size, row_size * sizeof(float));
    for (int64_t i = row_size + border; i < row_size + 2 * border; ++i) to[i] = 0;
  }
}

SIMD_INLINE void convolve(const Layer& p, const Band& band, int64_t sample, float* scratch) {
  const float* from = p.x + (sample * p.height + band.begin * p.stride) * p.width * p.inputs;
  int64_t row_size = p.width * p.inputs;
  if (!p.is_pointwise()) {
    copy_rows(p, band, sample, scratch);
    from = scratch;
    row_size = band.across * p.inputs;
  }
  float* to = p.y + (sample * p.height_out + band.begin) * p.width_out * p.outputs;
  const Product product = {p.narrow,  p.narrow_bias,       p.kernel,  row_size, p.kernel * p.inputs,
                           p.outputs, p.stride * p.inputs, p.outputs, 0,        p.has_relu};
  for (int64_t column = 0; column < p.outputs; column += kVectors * kLanes)
    for (int64_t row = 0; row < band.end - band.begin; ++row)
      multiply_rows(product, from + row * p.stride * row_size, p.width_out, column,
                    to + row * p.width_out * p.outputs, nullptr);
}

// ---- all of it

void run(const Layer& p, int64_t sample, int64_t begin, int64_t end, float* scratch) {
  const Band band = band_of(p, begin, end);
  if (!p.wide) return convolve(p, band, sample, scratch);
  float* filtered = scratch + widened_size(p, end - begin);
  widen(p, band, sample, scratch);
  filter(p, band, scratch, filtered);
  const int64_t first = (sample * p.height_out + begin) * p.width_out;
  const Product product = {p.narrow,  p.narrow_bias, 1,         0,        p.wide,
                           p.outputs, band.step,     p.outputs, p.inputs, false};
  const float* added = p.adds_input ? p.x + first * p.inputs : nullptr;
  for (int64_t column = 0; column < p.outputs; column += kVectors * kLanes)
    multiply_rows(product, filtered, (end - begin) * p.width_out, column, p.y + first * p.outputs,
                  added);
}
