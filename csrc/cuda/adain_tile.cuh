// The position of a thread of cuda/adain.cu, and merging of results over warp, block and cluster.
#pragma once

#include "adain_packed.cuh"
#include "adain_plan.h"
#include "cuda_launch.h"

namespace talkinghead {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kStreamed = 4;  // packs in flight in a streamed tile

// Launch bounds of a kernel that keeps a tile: maximum number of threads, and minimum number of
// blocks per multiprocessor (0: the compiler's choice).
template <int Bytes, bool Last>
constexpr int kThreads = Bytes == 16 && !Last ? 1024 : 512;
template <int Bytes, bool Last>
constexpr int kBlocks = Bytes == 16 && !Last ? 0 : 1;

struct Affine {
  const void *scale, *bias;  // [B, C], second stride 1
  int64_t scale_stride, bias_stride;
  bool wide;  // float32, else the type of x
};

// ---- position of a thread ----------------------------------------------------------------------

template <class T, int Bytes, bool Last>
struct Place {
  static constexpr int kWidth = Packed<T, Bytes>::size;  // elements of a pack
  static constexpr int kStats = Last ? kWidth : 1;       // statistics of a pack
  static constexpr int kShare = Last ? 1 : kWidth;       // elements that share one

  const Layout& layout;
  int lanes, lane, channels;  // channels: that this tile really has
  int own;  // the one of them that this thread computes for all; in NCHW every thread does
  int sample, first_channel, begin, end, row, step;
  int64_t offset;

  // rows [part * slice, (part + 1) * slice) of the tile; `row` is the first of this thread
  __device__ Place(const Layout& layout, int tile, int part) : layout(layout) {
    lanes = Last ? layout.lanes : 1;
    lane = int(threadIdx.x) % lanes;
    sample = tile / layout.tiles_per_sample;
    const int in_sample = tile - sample * layout.tiles_per_sample;
    first_channel = in_sample * lanes * kStats;
    channels = min(lanes * kStats, layout.channels - first_channel);
    begin = min(part * layout.slice, layout.rows);
    end = min(begin + layout.slice, layout.rows);
    own = Last ? int(threadIdx.x) : 0;
    row = begin + int(threadIdx.x) / lanes;
    step = int(blockDim.x) / lanes;
    offset = Last ? int64_t(sample) * layout.rows * layout.stride + in_sample * lanes + lane
                  : int64_t(tile) * layout.rows;
    if (Last && lane * kStats >= channels) row = end;
  }

  // Returns how many of `most` rows from `from` on exist.
  __device__ int count(int from, int most) const {
    return from < end ? min(int(unsigned(end - from + step - 1) / unsigned(step)), most) : 0;
  }
  __device__ int64_t pack(int from, int i) const {
    return offset + int64_t(from + i * step) * (Last ? layout.stride : 1);
  }
  __device__ int64_t statistic(int c) const {
    return int64_t(sample) * layout.channels + first_channel + c;
  }
  __device__ float elements(int part) const {
    return float(min((part + 1) * layout.slice, layout.rows) -
                 min(part * layout.slice, layout.rows)) *
           kShare;
  }
};

// x: scale, y: bias of the channel that `share` assigns to this thread; load them long before they
// are used.
template <class T, class P>
__device__ float2 own_affine(const Affine& affine, const P& place) {
  const int c = place.own;
  if (c >= place.channels) return make_float2(0, 0);
  const int64_t scale = place.sample * affine.scale_stride + place.first_channel + c;
  const int64_t bias = place.sample * affine.bias_stride + place.first_channel + c;
  if (affine.wide)
    return make_float2(static_cast<const float*>(affine.scale)[scale],
                       static_cast<const float*>(affine.bias)[bias]);
  return make_float2(to_float(static_cast<const T*>(affine.scale)[scale]),
                     to_float(static_cast<const T*>(affine.bias)[bias]));
}

// ---- merging ----------------------------------------------------------------------------

// x: mean, y: sum of squared deviations from it, of n elements; n = 0 has x = y = 0
struct Moments {
  template <int S>
  __device__ static void warp(float& n, float2 (&value)[S], int lanes) {
    const float total = warp_sum(n, lanes), inverse = total > 0 ? __fdividef(1, total) : 0;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      // Relative to the warp's first row, which exists if any does, so that a large mean costs no
      // precision.
      const float origin = __shfl_sync(kAll, value[s].x, int(threadIdx.x % lanes));
      const float mean = origin + warp_sum(n * (value[s].x - origin), lanes) * inverse;
      const float off = value[s].x - mean;
      value[s] = make_float2(mean, warp_sum(value[s].y + n * off * off, lanes));
    }
    n = total;
  }

  template <class Count>
  __device__ static float2 serial(const float2* parts, int64_t stride, int count, Count n) {
    const float origin = parts[0].x;
    float total = 0, sum = 0, squares = 0;
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      total += n(k);
      sum += n(k) * (parts[k * stride].x - origin);
    }
    const float mean = total > 0 ? origin + sum / total : 0;
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      const float off = parts[k * stride].x - mean;
      squares += parts[k * stride].y + n(k) * off * off;
    }
    return make_float2(mean, squares);
  }
};

// x, y: two sums
struct Sums {
  template <int S>
  __device__ static void warp(float&, float2 (&value)[S], int lanes) {
#pragma unroll
    for (int s = 0; s < S; ++s)
      value[s] = make_float2(warp_sum(value[s].x, lanes), warp_sum(value[s].y, lanes));
  }

  template <class Count>
  __device__ static float2 serial(const float2* parts, int64_t stride, int count, Count) {
    float2 sum = make_float2(0, 0);
#pragma unroll 8
    for (int k = 0; k < count; ++k)
      sum = make_float2(sum.x + parts[k * stride].x, sum.y + parts[k * stride].y);
    return sum;
  }
};

// parts[k * stride] of n(k) elements each, k < count. channels_last: by one thread; else by a whole
// warp, with count <= 32.
template <class Merge, bool Last, class Count>
__device__ float2 merge_parts(const float2* parts, int64_t stride, int count, Count n) {
  if constexpr (Last) return Merge::serial(parts, stride, count, n);
  const int k = int(threadIdx.x % 32);
  float part_n = k < count ? n(k) : 0;
  float2 value[1] = {k < count ? parts[k * stride] : make_float2(0, 0)};
  Merge::warp(part_n, value, 1);
  return value[0];
}

// Dynamic shared memory of a block, as counted by `shared_bytes` in adain_plan.h.
struct Memory {
  float4* coefficients;   // of each channel of the tile
  float* counts;          // elements of each warp
  float2 *warps, *ranks;  // results of each warp, and of each block of the cluster

  __device__ Memory(unsigned char* from, int channels) {
    coefficients = reinterpret_cast<float4*>(from);
    counts = reinterpret_cast<float*>(coefficients + channels);
    warps = reinterpret_cast<float2*>(counts + 32);
    ranks = warps + channels * (blockDim.x / 32);
  }
};

// coefficients[s] = f(channel of the tile), computed by the thread that owns the channel; a block
// has more threads than a tile channels. NCHW: by every thread, so f may use the whole warp.
template <bool Last, int S, class P, class F>
__device__ void share(float4 (&coefficients)[S], const Memory& memory, const P& place, F f) {
  if constexpr (Last) {
    if (place.own < place.channels) memory.coefficients[place.own] = f(place.own);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < S; ++s) coefficients[s] = memory.coefficients[place.lane * S + s];
  } else {
    coefficients[0] = f(0);
  }
}

// Merges `value` of n elements over the tile's threads in the block and, with ranks > 1, in the
// cluster, whose first barrier this thread has arrived at. coefficients[s] = finish(channel,
// merged).
template <class Merge, bool Last, class P, int S, class Finish>
__device__ void combine(const P& place, const Memory& memory, float n, float2 (&value)[S],
                        int ranks, float4 (&coefficients)[S], Finish finish) {
  const int warps = blockDim.x / 32, in_warp = threadIdx.x % 32, width = place.lanes * S;
  Merge::warp(n, value, place.lanes);
  if (Last || warps > 1) {
    const int warp = threadIdx.x / 32;
    if (in_warp == 0) memory.counts[warp] = n;
    if (in_warp < place.lanes) {
#pragma unroll
      for (int s = 0; s < S; ++s) memory.warps[warp * width + in_warp * S + s] = value[s];
    }
    __syncthreads();
  }
  const auto of_warp = [&](int k) { return memory.counts[k]; };
  const auto of_rank = [&](int k) {
    return place.elements(int(blockIdx.x) % place.layout.parts / ranks * ranks + k);
  };
  const auto in_block = [&](int c) {
    return Last || warps > 1 ? merge_parts<Merge, Last>(memory.warps + c, width, warps, of_warp)
                             : value[0];
  };
  if (ranks > 1) {
    const unsigned rank = cluster_rank();
    if constexpr (Last) {
      cluster_wait();
      if (place.own < place.channels) {
        const float2 merged = in_block(place.own);
        for (int r = 0; r < ranks; ++r)
          cluster_shared(memory.ranks, r)[rank * width + place.own] = merged;
      }
    } else {
      const float2 merged = in_block(0);
      cluster_wait();
      if (int(threadIdx.x) < ranks) cluster_shared(memory.ranks, threadIdx.x)[rank] = merged;
    }
    cluster_sync();
  }
  share<Last>(coefficients, memory, place, [&](int c) {
    return finish(c, ranks > 1 ? merge_parts<Merge, Last>(memory.ranks + c, width, ranks, of_rank)
                               : in_block(c));
  });
}

// The address of the result of a part for the kernel that merges them.
template <class P>
__device__ __forceinline__ int64_t partial_index(const P& place, int tile, int part, int c) {
  return (int64_t(tile) * (place.layout.parts / place.layout.ranks) + part) *
             (place.lanes * P::kStats) +
         c;
}

template <class Merge, bool Last, class P>
__device__ float2 merge_partials(const float2* partial, const P& place, int tile, int c) {
  const int ranks = place.layout.ranks;
  const auto n = [&](int k) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) sum += place.elements(k * ranks + r);
    return sum;
  };
  return merge_parts<Merge, Last>(partial + partial_index(place, tile, 0, c),
                                  place.lanes * P::kStats, place.layout.parts / ranks, n);
}

}  // namespace
}  // namespace talkinghead
