// One read of all weights of a network, for a power iteration or for the partial sums of every
// sigma. Included by cuda/spectral_norm.cu.
//
// Rows are divided among blocks by the cost of reading them, across layers, so that every block
// reads the same amount. A block keeps its rows in registers while it computes s_r = w_r . v and
// adds s_r w_r to its own part of t. Parts are summed in a fixed order, first within groups of
// blocks, then over groups, each time by the block that finishes last.
#pragma once

#include "cuda_launch.h"

namespace talkinghead {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLayers =
    48;  // in one launch; a table of them stays below the 4 KB every device takes as a parameter
constexpr int kHeld =
    20;  // numbers of a row that a thread holds: 4608 columns are 18 for each of 256 threads
constexpr int kWidest = kThreads * kHeld;
constexpr int kRowsInFlight = 2;  // rows in flight in a thread
constexpr int kGroup = 8;         // blocks whose parts of t are summed first
constexpr int kRowCost = 64;      // what a row costs besides reading, in columns
constexpr int64_t kLeastShare = 8192;
constexpr int kBlocksPerMultiprocessor = 2;

struct SweepLayer {
  const float* weight;
  float *u, *v;
  float* copy;     // of u, then of v, where sigma is asked for
  float* scratch;  // s [rows], then a part of t [columns] for each block; or a part of sigma for
                   // each block
  int64_t cost;    // of all layers before
  int rows, columns;
  int first_block, blocks;
  int ticket;  // first of its tickets: the layer's, then each group's
};

struct Sweep {
  SweepLayer layers[kLayers];
  int64_t share;      // cost of a block's rows
  unsigned* tickets;  // cleared
  float eps;
  int count;
};
static_assert(sizeof(Sweep) <= 4096);

__host__ __device__ inline int64_t row_cost(const SweepLayer& layer) {
  return layer.columns + kRowCost;
}

// The first row of a block: the first to begin at its share of the cost or later.
__device__ inline int row_begin(const Sweep& sweep, const SweepLayer& layer, int block) {
  const int64_t ahead = block * sweep.share - layer.cost;
  if (ahead <= 0) return 0;
  const int64_t row = (ahead + row_cost(layer) - 1) / row_cost(layer);
  return row < layer.rows ? static_cast<int>(row) : layer.rows;
}

__host__ __device__ inline int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Returns the sum to every thread of the block, in a fixed order.
__device__ float block_sum(float value, float* shared) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp];
  __syncthreads();
  return sum;
}

// Unlike fmaxf, keeps NaN.
__device__ inline float at_least(float value, float eps) { return value < eps ? eps : value; }

// A team of TEAM threads shares a row: the columns of this thread, zero after the end.
template <int VECTOR, int TEAM>
__device__ inline void load_row(float (&held)[kHeld], const float* row, int rank, int columns) {
#pragma unroll
  for (int k = 0; k < kHeld / VECTOR; ++k) {
    const int column = (k * TEAM + rank) * VECTOR;
    if constexpr (VECTOR == 4) {
      float4 four = make_float4(0, 0, 0, 0);
      if (column < columns) four = *reinterpret_cast<const float4*>(row + column);
      held[4 * k] = four.x, held[4 * k + 1] = four.y;
      held[4 * k + 2] = four.z, held[4 * k + 3] = four.w;
    } else {
      held[k] = column < columns ? row[column] : 0.f;
    }
  }
}

struct SweepShared {
  float dots[2][kRowsInFlight][kWarps];
  float sums[kWarps];
  float parts[kThreads * kHeld];
  bool last;
};

// Each team processes every n-th row, each thread the same columns of all of them. Returns a
// thread's part of sigma.
template <int VECTOR, int TEAM, bool ITERATE>
__device__ float sweep_rows(const SweepLayer& layer, int begin, int end, float* s, float* t_part,
                            SweepShared& shared) {
  constexpr int kRows = VECTOR == 4 ? kRowsInFlight : 1;
  constexpr int kTeams = kThreads / TEAM, kTeamWarps = TEAM / 32;
  const int columns = layer.columns;
  const int rank = threadIdx.x % TEAM, mine = threadIdx.x / TEAM;
  float v[kHeld], t[kHeld] = {}, sigma = 0;
  load_row<VECTOR, TEAM>(v, layer.v, rank, columns);
  const float* weight = layer.weight + static_cast<int64_t>(begin + mine) * columns;
  int buffer = 0;
#pragma unroll 1
  for (int first = begin; first < end; first += kTeams * kRows, buffer ^= 1) {
    float w[kRows][kHeld], dot[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int row = first + j * kTeams + mine;
      load_row<VECTOR, TEAM>(w[j], weight + static_cast<int64_t>(j * kTeams) * columns, rank,
                             row < end ? columns : 0);
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      dot[j] = 0;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) dot[j] += w[j][k] * v[k];
    }
    weight += static_cast<int64_t>(kTeams * kRows) * columns;
    if constexpr (ITERATE) {
#pragma unroll
      for (int j = 0; j < kRows; ++j) dot[j] = warp_sum(dot[j]);
      if constexpr (kTeamWarps > 1) {
        if (threadIdx.x % 32 == 0) {
#pragma unroll
          for (int j = 0; j < kRows; ++j) shared.dots[buffer][j][threadIdx.x / 32] = dot[j];
        }
        __syncthreads();  // the only one in an iteration: the next writes the other buffer
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          dot[j] = 0;
#pragma unroll
          for (int warp = 0; warp < kTeamWarps; ++warp)
            dot[j] += shared.dots[buffer][j][mine * kTeamWarps + warp];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int row = first + j * kTeams + mine;
      if constexpr (ITERATE) {
        if (rank == 0 && row < end) s[row] = dot[j];
#pragma unroll
        for (int k = 0; k < kHeld; ++k) t[k] += dot[j] * w[j][k];
      } else {
        if (row < end) sigma += layer.u[row] * dot[j];
      }
    }
  }
  if constexpr (ITERATE) {
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int column = (k / VECTOR * TEAM + rank) * VECTOR + k % VECTOR;
      shared.parts[mine * TEAM * kHeld + column] = t[k];
    }
    __syncthreads();
    for (int column = threadIdx.x; column < columns; column += kThreads) {
      float sum = 0;
      for (int k = 0; k < kTeams; ++k) sum += shared.parts[k * TEAM * kHeld + column];
      t_part[column] = sum;
    }
  }
  return sigma;
}

// Processes rows that are too long for registers; the second read of a row comes from a cache.
template <bool ITERATE>
__device__ float sweep_wide(const SweepLayer& layer, int begin, int end, float* s, float* t_part,
                            SweepShared& shared) {
  float sigma = 0;
  if (ITERATE && begin == end) {
    for (int column = threadIdx.x; column < layer.columns; column += kThreads) t_part[column] = 0;
  }
  for (int row = begin; row < end; ++row) {
    const float* __restrict__ w = layer.weight + static_cast<int64_t>(row) * layer.columns;
    float dot = 0;
#pragma unroll 2
    for (int column = threadIdx.x; column < layer.columns; column += kThreads)
      dot += w[column] * layer.v[column];
    if constexpr (ITERATE) {
      dot = block_sum(dot, shared.sums);
      if (threadIdx.x == 0) s[row] = dot;
#pragma unroll 4
      for (int column = threadIdx.x; column < layer.columns; column += kThreads) {
        t_part[column] = (row == begin ? 0.f : t_part[column]) + dot * w[column];
      }
    } else {
      sigma += layer.u[row] * dot;
    }
  }
  return sigma;
}

// Returns whether this block is the last of a number of blocks to arrive; the writes of the others
// are then visible to all its threads, through L2.
__device__ bool last_to_arrive(unsigned* ticket, int expected, bool& last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == static_cast<unsigned>(expected) - 1;
  __syncthreads();
  __threadfence();
  return last;
}

__device__ inline float4 sum_parts(const float* parts, int64_t stride, int count) {
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int part = 0; part < count; ++part) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(parts + part * stride));
    sum.x += four.x, sum.y += four.y, sum.z += four.z, sum.w += four.w;
  }
  return sum;
}

__device__ void finish_iteration(const Sweep& sweep, const SweepLayer& layer, int slot,
                                 float* t_parts, SweepShared& shared) {
  const int64_t pitch = round_up(layer.columns, 4);
  const int groups = (layer.blocks + kGroup - 1) / kGroup, group = slot / kGroup;
  const int members = min(kGroup, layer.blocks - group * kGroup);
  unsigned* tickets = sweep.tickets + layer.ticket;
  if (!last_to_arrive(tickets + 1 + group, members, shared.last)) return;
  int64_t stride = pitch;
  int count = members;
  if (groups > 1) {
    float* first = t_parts + group * kGroup * pitch;
    for (int column = threadIdx.x * 4; column < layer.columns; column += kThreads * 4) {
      *reinterpret_cast<float4*>(first + column) = sum_parts(first + column, pitch, members);
    }
    if (!last_to_arrive(tickets, groups, shared.last)) return;
    stride = kGroup * pitch;
    count = groups;
  }
  // Every block of the layer has arrived, so v is not read any more.
  float square = 0;
  for (int row = threadIdx.x; row < layer.rows; row += kThreads) {
    const float s = __ldcg(layer.scratch + row);
    square += s * s;
  }
  const float s_norm = at_least(sqrtf(block_sum(square, shared.sums)), sweep.eps);
  for (int row = threadIdx.x; row < layer.rows; row += kThreads)
    layer.u[row] = __ldcg(layer.scratch + row) / s_norm;
  square = 0;
  for (int column = threadIdx.x * 4; column < layer.columns; column += kThreads * 4) {
    const float4 sum = sum_parts(t_parts + column, stride, count);
    const float four[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (column + k >= layer.columns) break;
      const float t = four[k] / s_norm;
      layer.v[column + k] = t;
      square += t * t;
    }
  }
  const float t_norm = at_least(sqrtf(block_sum(square, shared.sums)), sweep.eps);
  for (int column = threadIdx.x * 4; column < layer.columns; column += kThreads * 4) {
    for (int k = column; k < min(column + 4, layer.columns); ++k) layer.v[k] /= t_norm;  // its own
  }
}

__device__ inline bool in_fours(const void* data, int columns) {
  return columns % 4 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Chooses the smallest team that holds a row.
template <int VECTOR, bool ITERATE>
__device__ float sweep_held(const SweepLayer& layer, int begin, int end, float* s, float* t_part,
                            SweepShared& shared) {
  const int columns = layer.columns;
  if (columns <= 32 * kHeld)
    return sweep_rows<VECTOR, 32, ITERATE>(layer, begin, end, s, t_part, shared);
  if (columns <= 64 * kHeld)
    return sweep_rows<VECTOR, 64, ITERATE>(layer, begin, end, s, t_part, shared);
  if (columns <= 128 * kHeld)
    return sweep_rows<VECTOR, 128, ITERATE>(layer, begin, end, s, t_part, shared);
  return sweep_rows<VECTOR, 256, ITERATE>(layer, begin, end, s, t_part, shared);
}

template <bool ITERATE>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    sweep_kernel(const __grid_constant__ Sweep sweep) {
  TALKINGHEAD_SHARED(SweepShared, all, 1);
  SweepShared& shared = all[0];
  const int block = static_cast<int>(blockIdx.x);
  for (int index = 0; index < sweep.count; ++index) {
    const SweepLayer& layer = sweep.layers[index];
    const int slot = block - layer.first_block;
    if (slot < 0) break;
    if (slot >= layer.blocks) continue;
    const int begin = row_begin(sweep, layer, block), end = row_begin(sweep, layer, block + 1);
    float* t_parts = layer.scratch + round_up(layer.rows, 4);
    float* t_part =
        ITERATE ? t_parts + static_cast<int64_t>(slot) * round_up(layer.columns, 4) : nullptr;
    float sigma;
    if (layer.columns > kWidest) {
      sigma = sweep_wide<ITERATE>(layer, begin, end, layer.scratch, t_part, shared);
    } else if (in_fours(layer.weight, layer.columns) && in_fours(layer.v, layer.columns)) {
      sigma = sweep_held<4, ITERATE>(layer, begin, end, layer.scratch, t_part, shared);
    } else {
      sigma = sweep_held<1, ITERATE>(layer, begin, end, layer.scratch, t_part, shared);
    }
    if constexpr (ITERATE) {
      finish_iteration(sweep, layer, slot, t_parts, shared);
    } else {
      sigma = block_sum(sigma, shared.sums);
      if (threadIdx.x == 0) layer.scratch[slot] = sigma;
      for (int row = begin + static_cast<int>(threadIdx.x); row < end; row += kThreads)
        layer.copy[row] = layer.u[row];
      if (slot > 0) continue;
      for (int column = threadIdx.x; column < layer.columns; column += kThreads)
        layer.copy[layer.rows + column] = layer.v[column];
    }
  }
}

}  // namespace
}  // namespace talkinghead
