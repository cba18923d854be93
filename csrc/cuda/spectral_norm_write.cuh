// Writing of all weights of a network in their final forms, and the gradient. Included by
// cuda/spectral_norm.cu.
//
// If the order of elements does not change, tiles are flat. Otherwise a tile of 3x3 kernels passes
// through shared memory, so that weights are read and written in their order, and each thread folds
// complete kernels in its registers.
#pragma once

#include "spectral_norm_sweep.cuh"

namespace talkinghead {
namespace {

enum Form : uint8_t { kPlain, kUpsample, kUpsampleShuffle, kDownsample };  // as in resample.FORMS

struct WriteLayer {
  const float* weight;
  void* folded;  // what is written forward, its gradient backward
  float* grad_weight;
  const float* u;  // then v
  float* sigma;
  float* parts;  // of sigma or of the inner product
  int rows, inputs, area;
  int first_block, part_count;
  Form form;
  bool channels_last;
};

struct Write {
  WriteLayer layers[kLayers];
  float eps;
  int count;
  int tiles_per_block;
};
static_assert(sizeof(Write) <= 4096);

constexpr int kFlat = 4096;               // numbers of a tile where order stays as it is
constexpr int kPairs = 512, kAlong = 64;  // pairs (output, input) of a tile of 3x3 kernels, and how
                                          // many of them share an output or, for kUpsample, an
                                          // input: results are contiguous that way in channels_last
constexpr int kTile = kAlong * (kPairs / kAlong * 9 + 1);

__host__ __device__ inline bool in_kernels(const WriteLayer& layer) {
  return layer.form != kPlain || (layer.channels_last && layer.area == 9);
}

__host__ __device__ inline int64_t tile_count(const WriteLayer& layer) {
  if (!in_kernels(layer))
    return (static_cast<int64_t>(layer.rows) * layer.inputs * layer.area + kFlat - 1) / kFlat;
  constexpr int kAcross = kPairs / kAlong;
  const int rows = layer.form == kUpsample ? kAlong : kAcross,
            inputs = layer.form == kUpsample ? kAcross : kAlong;
  return static_cast<int64_t>((layer.rows + rows - 1) / rows) *
         ((layer.inputs + inputs - 1) / inputs);
}

// The index of the sum, (0), (0, 1), (1, 2) or (2), of taps of a row or column for position (q, k)
// of a folded kernel. (q, k) is (row, column) of a 4x4 kernel or, in the shuffled form, (pixel of
// the 2x2 group, position in the 2x2 kernel).
__device__ constexpr int shuffled(int pixel, int position) {
  return pixel == 0 ? (position == 0 ? 1 : 3) : (position == 0 ? 0 : 2);
}
template <Form FORM>
__device__ constexpr int row_sum(int q, int k) {
  return FORM == kUpsample ? 3 - q : FORM == kDownsample ? q : shuffled(q / 2, k / 2);
}
template <Form FORM>
__device__ constexpr int column_sum(int q, int k) {
  return FORM == kUpsample ? 3 - k : FORM == kDownsample ? k : shuffled(q % 2, k % 2);
}

// The address of a pair's elements in the folded tensor: 4 x 4, or 9 at one stride for the plain
// form.
struct Place {
  int64_t first, q_stride, k_stride;
};

template <Form FORM>
__device__ inline Place place(const WriteLayer& layer, int o, int i) {
  const int64_t rows = layer.rows, inputs = layer.inputs;
  if constexpr (FORM == kPlain) return {o * 9 * inputs + i, 0, inputs};
  if (layer.channels_last) {
    if constexpr (FORM == kUpsample) return {i * 16 * rows + o, 4 * rows, rows};
    return {o * 16 * inputs + i, 4 * inputs, inputs};
  }
  if constexpr (FORM == kUpsample) return {(i * rows + o) * 16, 4, 1};
  if constexpr (FORM == kDownsample) return {(o * inputs + i) * 16, 4, 1};
  return {(o * 4 * inputs + i) * 4, 4 * inputs, 1};
}

template <class T>
__device__ inline bool in_packs(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % (4 * sizeof(T)) == 0;
}

template <class T, Form FORM>
__device__ void store_pair(const WriteLayer& layer, int o, int i, const float* w, float divisor) {
  const Place at = place<FORM>(layer, o, i);
  T* out = static_cast<T*>(layer.folded) + at.first;
  if constexpr (FORM == kPlain) {
#pragma unroll
    for (int k = 0; k < 9; ++k) out[k * at.k_stride] = from_float<T>(w[k] / divisor);
  } else {
    float across[3][4], sums[4][4];
#pragma unroll
    for (int y = 0; y < 3; ++y) {
      const float a = w[3 * y], b = w[3 * y + 1], c = w[3 * y + 2];
      across[y][0] = a, across[y][1] = a + b, across[y][2] = b + c, across[y][3] = c;
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      sums[0][x] = across[0][x], sums[1][x] = across[0][x] + across[1][x];
      sums[2][x] = across[1][x] + across[2][x], sums[3][x] = across[2][x];
    }
    constexpr float kScale = FORM == kDownsample ? 0.25f : 1.f;
    const bool packed = at.k_stride == 1 && in_packs<T>(layer.folded);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      Pack<T, 4 * sizeof(T)> four;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        four.values[k] =
            from_float<T>(sums[row_sum<FORM>(q, k)][column_sum<FORM>(q, k)] * kScale / divisor);
      }
      if (packed) {
        *reinterpret_cast<Pack<T, 4 * sizeof(T)>*>(out + q * at.q_stride) = four;
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) out[q * at.q_stride + k * at.k_stride] = four.values[k];
      }
    }
  }
}

// The adjoint of the fold: the gradients of the 9 taps of a pair.
template <class T, Form FORM>
__device__ void load_pair(const WriteLayer& layer, int o, int i, float (&grad)[9]) {
  const Place at = place<FORM>(layer, o, i);
  const T* in = static_cast<const T*>(layer.folded) + at.first;
  if constexpr (FORM == kPlain) {
#pragma unroll
    for (int k = 0; k < 9; ++k) grad[k] = to_float(in[k * at.k_stride]);
  } else {
    float sums[4][4] = {};
    const bool packed = at.k_stride == 1 && in_packs<T>(layer.folded);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      Pack<T, 4 * sizeof(T)> four;
      if (packed) {
        four = load(reinterpret_cast<const Pack<T, 4 * sizeof(T)>*>(in + q * at.q_stride));
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) four.values[k] = in[q * at.q_stride + k * at.k_stride];
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        sums[row_sum<FORM>(q, k)][column_sum<FORM>(q, k)] = to_float(four.values[k]);
    }
    constexpr float kScale = FORM == kDownsample ? 0.25f : 1.f;
#pragma unroll
    for (int y = 0; y < 3; ++y) {
#pragma unroll
      for (int x = 0; x < 3; ++x) {
        grad[3 * y + x] =
            kScale * ((sums[y][x] + sums[y + 1][x]) + (sums[y][x + 1] + sums[y + 1][x + 1]));
      }
    }
  }
}

enum Task { kForward, kInner, kBackward };

// Values of a block's layer besides the table. The inner product is already divided by sigma.
struct Known {
  float divisor, inner;
};

// Processes a tile of 3x3 kernels. Returns a thread's part of <gradient, weight> if the task
// computes it.
template <class T, Task TASK, Form FORM>
__device__ float kernels_tile(const WriteLayer& layer, int64_t tile, const Known& known,
                              float* shared) {
  constexpr bool kAlongRows = FORM == kUpsample;
  constexpr int kTileRows = kAlongRows ? kAlong : kPairs / kAlong, kTileInputs = kPairs / kTileRows;
  constexpr int kPitch = kTileInputs * 9 + 1;  // odd: a column of the tile meets every bank
  const int across = (layer.inputs + kTileInputs - 1) / kTileInputs;
  const int o0 = static_cast<int>(tile / across) * kTileRows,
            i0 = static_cast<int>(tile % across) * kTileInputs;
  const int rows = min(kTileRows, layer.rows - o0), inputs = min(kTileInputs, layer.inputs - i0);
  const int64_t columns = static_cast<int64_t>(layer.inputs) * 9, corner = o0 * columns + i0 * 9;
  if constexpr (TASK != kBackward) {
#pragma unroll 3
    for (int at = threadIdx.x; at < kPairs * 9; at += kThreads) {
      const int o = at / (kTileInputs * 9), k = at % (kTileInputs * 9);
      if (o < rows && k < inputs * 9)
        shared[o * kPitch + k] = layer.weight[corner + o * columns + k];
    }
    __syncthreads();
  }
  float sum = 0;
#pragma unroll 1
  for (int pair = threadIdx.x; pair < kPairs; pair += kThreads) {
    const int o = kAlongRows ? pair % kAlong : pair / kAlong,
              i = kAlongRows ? pair / kAlong : pair % kAlong;
    if (o >= rows || i >= inputs) continue;
    float* kernel = shared + o * kPitch + i * 9;
    if constexpr (TASK == kForward) {
      store_pair<T, FORM>(layer, o0 + o, i0 + i, kernel, known.divisor);
    } else {
      float grad[9];
      load_pair<T, FORM>(layer, o0 + o, i0 + i, grad);
      if constexpr (TASK == kInner) {
#pragma unroll
        for (int k = 0; k < 9; ++k) sum += grad[k] * kernel[k];
      } else {
        const float u = layer.u[o0 + o];
        const float* v = layer.u + layer.rows + (i0 + i) * 9;
#pragma unroll
        for (int k = 0; k < 9; ++k)
          kernel[k] = (grad[k] - known.inner * (u * v[k])) / known.divisor;
      }
    }
  }
  __syncthreads();
  if constexpr (TASK == kBackward) {
#pragma unroll 6
    for (int at = threadIdx.x; at < kPairs * 9; at += kThreads) {
      const int o = at / (kTileInputs * 9), k = at % (kTileInputs * 9);
      if (o < rows && k < inputs * 9)
        layer.grad_weight[corner + o * columns + k] = shared[o * kPitch + k];
    }
    __syncthreads();
  }
  return sum;
}

// Elements at .. at + COUNT of a flat tile that begins in row `row` at column `column`; `place` is
// their position in the folded tensor.
template <class T, Task TASK, int COUNT>
__device__ inline float flat_numbers(const WriteLayer& layer, int64_t at, int64_t place, int row,
                                     unsigned column, unsigned columns, const Known& known) {
  float sum = 0;
  Pack<float, 4 * COUNT> weight, grad_weight;
  Pack<T, COUNT * sizeof(T)> folded;
  auto* packed =
      reinterpret_cast<Pack<T, COUNT * sizeof(T)>*>(static_cast<T*>(layer.folded) + place);
  if constexpr (TASK != kBackward)
    weight = load(reinterpret_cast<const Pack<float, 4 * COUNT>*>(layer.weight + at));
  if constexpr (TASK != kForward) folded = load(packed);
  if constexpr (TASK == kBackward) {
    row += static_cast<int>(column / columns);
    column %= columns;
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    if constexpr (TASK == kForward) {
      folded.values[k] = from_float<T>(weight.values[k] / known.divisor);
    } else if constexpr (TASK == kInner) {
      sum += to_float(folded.values[k]) * weight.values[k];
    } else {
      const float rank_one = layer.u[row] * layer.u[layer.rows + column + k];
      grad_weight.values[k] = (to_float(folded.values[k]) - known.inner * rank_one) / known.divisor;
    }
  }
  if constexpr (TASK == kForward) *packed = folded;
  if constexpr (TASK == kBackward)
    *reinterpret_cast<Pack<float, 4 * COUNT>*>(layer.grad_weight + at) = grad_weight;
  return sum;
}

template <class T, Task TASK>
__device__ float flat_tile(const WriteLayer& layer, int64_t tile, const Known& known) {
  const unsigned columns = static_cast<unsigned>(layer.inputs) * layer.area;
  const int64_t first = tile * kFlat,
                remaining = static_cast<int64_t>(layer.rows) * columns - first;
  const unsigned count = remaining < kFlat ? static_cast<unsigned>(remaining) : kFlat;
  const int row = static_cast<int>(first / columns);
  const unsigned column = static_cast<unsigned>(first % columns);
  const bool moved = layer.channels_last && layer.area > 1;
  const bool fours = in_fours(layer.weight, columns % 4) && in_packs<T>(layer.folded) && !moved &&
                     (TASK != kBackward || in_fours(layer.grad_weight, columns % 4));
  float sum = 0;
  if (fours) {
#pragma unroll 2
    for (unsigned k = threadIdx.x * 4; k < kFlat; k += kThreads * 4) {
      if (k < count)
        sum +=
            flat_numbers<T, TASK, 4>(layer, first + k, first + k, row, column + k, columns, known);
    }
  } else {
    for (unsigned k = threadIdx.x; k < count; k += kThreads) {
      int64_t place = first + k;
      if (moved) {  // kernels of a rare size, without tiles
        const unsigned within = static_cast<unsigned>(place % columns);
        place +=
            static_cast<int64_t>(within % layer.area) * layer.inputs + within / layer.area - within;
      }
      sum += flat_numbers<T, TASK, 1>(layer, first + k, place, row, column + k, columns, known);
    }
  }
  return sum;
}

// The result is equal in every warp, in a fixed order.
__device__ inline float sum_of(const float* parts, int count) {
  float sum = 0;
  for (int part = threadIdx.x % 32; part < count; part += 32) sum += parts[part];
  return warp_sum(sum);
}

template <class T, Task TASK>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 4)
    write_kernel(const __grid_constant__ Write write) {
  TALKINGHEAD_SHARED(float, shared, kTile);
  TALKINGHEAD_SHARED(float, sums, kWarps);
  const int block = static_cast<int>(TASK == kInner ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  int index = 0;
  while (index + 1 < write.count && write.layers[index + 1].first_block <= block) ++index;
  const WriteLayer& layer = write.layers[index];
  const int slot = block - layer.first_block;
  Known known = {1, 0};
  if constexpr (TASK == kForward) {
    const float sigma = sum_of(layer.parts, layer.part_count);
    if (slot == 0 && threadIdx.x == 0) *layer.sigma = sigma;
    known.divisor = at_least(sigma, write.eps);
  }
  if constexpr (TASK == kBackward) {
    const float sigma = *layer.sigma;
    known.divisor = at_least(sigma, write.eps);
    if (!(sigma < write.eps)) known.inner = sum_of(layer.parts, layer.part_count) / known.divisor;
  }
  float sum = 0;
  const int64_t begin = static_cast<int64_t>(slot) * write.tiles_per_block;
  const int64_t all = tile_count(layer), end = min(all, begin + write.tiles_per_block);
#pragma unroll 1
  for (int64_t tile = begin; tile < end; ++tile) {
    if (!in_kernels(layer)) {
      sum += flat_tile<T, TASK>(layer, tile, known);
    } else if (layer.form == kUpsample) {
      sum += kernels_tile<T, TASK, kUpsample>(layer, tile, known, shared);
    } else if (layer.form == kUpsampleShuffle) {
      sum += kernels_tile<T, TASK, kUpsampleShuffle>(layer, tile, known, shared);
    } else if (layer.form == kDownsample) {
      sum += kernels_tile<T, TASK, kDownsample>(layer, tile, known, shared);
    } else {
      sum += kernels_tile<T, TASK, kPlain>(layer, tile, known, shared);
    }
  }
  if constexpr (TASK == kInner) {
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) layer.parts[slot] = sum;
  }
}

}  // namespace
}  // namespace talkinghead
