// Part of cpu/winograd.cpp, compiled once for each instruction set: the work of a task.

// tiles of a group: times two vectors their sums fill the registers
constexpr int64_t kRows = SIMD_BYTES == 64 ? 12 : 6;

constexpr float kNear = 0x1.6a09e6p-1f;  // square roots of 1/2 and 2
constexpr float kFar = 0x1.6a09e6p0f;

// The tiles [begin, end) in groups, as even as can be. Inputs lie, for each place of a patch and
// each group, as a vector of each tile, then the vectors of the next channels; products, for each
// place, as a row of each tile.
struct Block {
  int64_t begin, end;
  int64_t groups;
  int64_t channels;              // of the inputs, with those that fill the last vector
  int64_t columns;               // of a row of products
  int64_t place, product_place;  // floats of a place, of inputs and of products

  int64_t tiles() const { return end - begin; }
  int64_t group_begin(int64_t group) const { return tiles() * group / groups; }
};

SIMD_INLINE Block block_of(const Problem& p, int64_t begin, int64_t end) {
  Block block = {};
  block.begin = begin;
  block.end = end;
  block.groups = (end - begin + kRows - 1) / kRows;
  block.channels = whole(p.inputs, kLanes);
  block.columns = whole(p.part < p.outputs ? p.part : p.outputs, kLine);
  // a line more, or places would fall on the same lines of the cache
  block.place = whole((end - begin) * block.channels, kLine) + kLine;
  block.product_place = (end - begin) * block.columns + kLine;
  return block;
}

int64_t scratch_size(const Problem& p, int64_t tiles) {
  const Block block = block_of(p, 0, tiles);
  return kPlaces * (block.place + block.product_place);
}

// where a tile lies
struct Position {
  int64_t sample, row, column;
};

SIMD_INLINE Position position_of(const Problem& p, int64_t tile) {
  const int64_t each = p.down * p.across;
  return {tile / each, tile % each / p.across * kTile, tile % p.across * kTile};
}

// ---- inputs

SIMD_INLINE void transform(const Floats* d, Floats* to, int64_t step) {
  const Floats near_even = d[4] - 2.0f * d[2], near_odd = d[3] - 2.0f * d[1];
  const Floats far_even = d[4] - 0.5f * d[2], far_odd = d[3] - 0.5f * d[1];
  to[0] = d[0] + d[4] - 2.5f * d[2];
  to[step] = near_even + kNear * near_odd;
  to[2 * step] = near_even - kNear * near_odd;
  to[3 * step] = far_even + kFar * far_odd;
  to[4 * step] = far_even - kFar * far_odd;
  to[5 * step] = d[1] + d[5] - 2.5f * d[3];
}

template <bool kPart>
SIMD_INLINE void transform_patch(const float* const* from, int64_t channel, const Tail& tail,
                                 float* to, int64_t place) {
  Floats half[kPlaces];
#pragma GCC unroll 6
  for (int64_t column = 0; column < kPatch; ++column) {
    Floats d[kPatch];
#pragma GCC unroll 6
    for (int64_t row = 0; row < kPatch; ++row) {
      const float* at = from[row * kPatch + column] + channel;
      d[row] = kPart ? load_tail(at, tail) : load(at);
    }
    transform(d, half + column, kPatch);
  }
#pragma GCC unroll 6
  for (int64_t row = 0; row < kPatch; ++row) {
    Floats result[kPatch];
    transform(half + row * kPatch, result, 1);
#pragma GCC unroll 6
    for (int64_t column = 0; column < kPatch; ++column)
      store(to + (row * kPatch + column) * place, result[column]);
  }
}

SIMD_INLINE void load_tile(const Problem& p, const Block& block, int64_t tile, float* to,
                           int64_t step) {
  const Position position = position_of(p, tile);
  const float* from[kPlaces];
  for (int64_t i = 0; i < kPatch; ++i) {
    for (int64_t j = 0; j < kPatch; ++j) {
      const int64_t row = position.row + i - 1, column = position.column + j - 1;
      const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
      from[i * kPatch + j] =
          inside ? p.x + ((position.sample * p.height + row) * p.width + column) * p.inputs
                 : p.zeros;
    }
  }
  const Tail tail = tail_of(p.inputs % kLanes);
  int64_t channel = 0;
  for (; channel + kLanes <= p.inputs; channel += kLanes, to += step)
    transform_patch<false>(from, channel, tail, to, block.place);
  if (channel < p.inputs) transform_patch<true>(from, channel, tail, to, block.place);
}

// ---- products

constexpr int64_t kAhead = 2048;  // floats; by itself the CPU reads ahead within a page only

// One place of a group of kCount tiles times kVectors vectors of weights; the last of them, where
// kPart, is read in part.
template <int kCount, int kVectors, bool kPart>
void multiply(const float* tiles, const float* weights, int64_t inputs, int64_t width,
              int64_t last_lanes, float* to, int64_t to_step) {
  Floats sums[kCount][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; ++i) sums[r][i] = Floats{};
  const Tail tail = tail_of(last_lanes);
  for (int64_t channel = 0; channel < inputs; channel += kLanes, tiles += kCount * kLanes) {
    const int64_t lanes = inputs - channel < kLanes ? inputs - channel : kLanes;
    for (int64_t lane = 0; lane < lanes; ++lane, weights += width) {
      Floats columns[kVectors];
      __builtin_prefetch(weights + kAhead);
      if (kLanes == kLine) __builtin_prefetch(weights + kAhead + kLanes);
#pragma GCC unroll 2
      for (int i = 0; i < kVectors; ++i)
        columns[i] = kPart && i + 1 == kVectors ? load_tail(weights + i * kLanes, tail)
                                                : load(weights + i * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 2
        for (int i = 0; i < kVectors; ++i)
          sums[r][i] = sums[r][i] + columns[i] * (tiles[r * kLanes + lane] - Floats{});
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; ++i) store(to + r * to_step + i * kLanes, sums[r][i]);
}

using Multiply = void(const float* tiles, const float* weights, int64_t inputs, int64_t width,
                      int64_t last_lanes, float* to, int64_t to_step);

template <int kCount>
SIMD_INLINE Multiply* multiply_of(int64_t rows, int64_t columns) {
  if constexpr (kCount > 1)
    if (rows < kCount) return multiply_of<kCount - 1>(rows, columns);
  if (columns >= 2 * kLanes) return multiply<kCount, 2, false>;
  return columns > kLanes ? multiply<kCount, 2, true> : multiply<kCount, 1, true>;
}

// ---- outputs

SIMD_INLINE void transform_back(const Floats* m, Floats* to, int64_t step) {
  const Floats near_even = m[1] + m[2], near_odd = m[1] - m[2];
  const Floats far_even = m[3] + m[4], far_odd = m[3] - m[4];
  to[0] = m[0] + near_even + far_even;
  to[step] = kNear * (near_odd + 2.0f * far_odd);
  to[2 * step] = 0.5f * near_even + 2.0f * far_even;
  to[3 * step] = m[5] + kNear * (0.5f * near_odd + 4.0f * far_odd);
}

template <bool kPart>
SIMD_INLINE void store_patch(const Problem& p, const float* from, int64_t place, int64_t channel,
                             const Tail& tail, float* to, int64_t rows, int64_t columns) {
  Floats half[kTile * kPatch];
#pragma GCC unroll 6
  for (int64_t column = 0; column < kPatch; ++column) {
    Floats m[kPatch];
#pragma GCC unroll 6
    for (int64_t row = 0; row < kPatch; ++row)
      m[row] = load(from + (row * kPatch + column) * place);
    transform_back(m, half + column, kPatch);
  }
  Floats bias = {};
  if (p.bias) bias = kPart ? load_tail(p.bias + channel, tail) : load(p.bias + channel);
#pragma GCC unroll 4
  for (int64_t row = 0; row < kTile; ++row) {
    if (row >= rows) break;
    Floats result[kTile];
    transform_back(half + row * kPatch, result, 1);
#pragma GCC unroll 4
    for (int64_t column = 0; column < kTile; ++column) {
      if (column >= columns) break;
      Floats v = result[column] + bias;
      v = where(v < p.low, splat(p.low), v);  // keeps NaN
      v = where(v > p.high, splat(p.high), v);
      float* at = to + (row * p.width + column) * p.outputs + channel;
      if constexpr (kPart) {
        store_tail(at, v, tail);
      } else {
        store(at, v);
      }
    }
  }
}

// ---- all of it

void run(const Problem& p, int64_t begin, int64_t end, int64_t part, float* scratch) {
  const Block block = block_of(p, begin, end);
  float *patches = scratch, *products = scratch + kPlaces * block.place;
  for (int64_t group = 0; group < block.groups; ++group) {
    const int64_t first = block.group_begin(group), rows = block.group_begin(group + 1) - first;
    for (int64_t row = 0; row < rows; ++row)
      load_tile(p, block, begin + first + row, patches + first * block.channels + row * kLanes,
                rows * kLanes);
  }
  const int64_t last = part + p.part < p.outputs ? part + p.part : p.outputs;
  for (int64_t place = 0; place < kPlaces; ++place) {
    const float* tiles = patches + place * block.place;
    float* to = products + place * block.product_place;
    for (int64_t panel = part; panel < last; panel += kPanel) {
      const float* weights = p.weight + (place * p.outputs + panel) * p.inputs;
      const int64_t width = last - panel < kPanel ? last - panel : kPanel;
      for (int64_t group = 0; group < block.groups; ++group) {
        const int64_t first = block.group_begin(group), rows = block.group_begin(group + 1) - first;
        for (int64_t column = 0; column < width; column += 2 * kLanes) {
          const int64_t columns = width - column, over = columns % kLanes;
          multiply_of<kRows>(rows, columns)(tiles + first * block.channels, weights + column,
                                            p.inputs, width, over ? over : kLanes,
                                            to + first * block.columns + panel - part + column,
                                            block.columns);
        }
      }
    }
  }
  const Tail tail = tail_of((last - part) % kLanes);
  for (int64_t tile = begin; tile < end; ++tile) {
    const Position position = position_of(p, tile);
    float* to =
        p.y + ((position.sample * p.height + position.row) * p.width + position.column) * p.outputs;
    const float* from = products + (tile - begin) * block.columns;
    const int64_t rows = p.height - position.row, columns = p.width - position.column;
    int64_t channel = part;
    for (; channel + kLanes <= last; channel += kLanes)
      store_patch<false>(p, from + channel - part, block.product_place, channel, tail, to, rows,
                         columns);
    if (channel < last)
      store_patch<true>(p, from + channel - part, block.product_place, channel, tail, to, rows,
                        columns);
  }
}
