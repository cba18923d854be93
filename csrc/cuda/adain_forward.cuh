// Kernels of AdaIN's forward pass.
#pragma once

#include "adain_tile.cuh"

namespace talkinghead {
namespace {

// Computes moments in two passes over the first `count` packs. Returns the number of elements of
// each statistic.
template <class P, int N, int S>
__device__ float moments(P (&packs)[N], int count, float2 (&value)[S]) {
  constexpr int kShare = P::size / S;
  float origin[S], sum[S];
#pragma unroll
  for (int s = 0; s < S; ++s) {
    origin[s] = count > 0 ? packs[0][s] : 0;
    sum[s] = 0;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      float of_pack = 0;
#pragma unroll
      for (int e = 0; e < kShare; ++e) of_pack += packs[i][s + e] - origin[s];
      sum[s] += of_pack;
    }
  }
  const float n = float(count * kShare), inverse = count > 0 ? __fdividef(1, n) : 0;
#pragma unroll
  for (int s = 0; s < S; ++s) value[s] = make_float2(origin[s] + sum[s] * inverse, 0);
  for (P& pack : packs) pack.forget();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      float of_pack = 0;
#pragma unroll
      for (int e = 0; e < kShare; ++e) {
        const float off = packs[i][s + e] - value[s].x;
        of_pack += off * off;
      }
      value[s].y += of_pack;
    }
  }
  return n;
}

// coefficients: mean, scale * rstd, bias
template <class P, int S>
__device__ __forceinline__ P normalise(const P& h, const float4 (&coefficients)[S], bool relu) {
  return P::of([&](int e) {
    const float4 k = coefficients[S > 1 ? e : 0];
    const float value = (h[e] - k.x) * k.y + k.z;
    return relu && value < 0 ? 0.f : value;  // keeps NaN
  });
}

template <class T>
struct Forward {
  const T *x, *residual;  // residual and h may be null
  T *y, *h;
  float *mean, *rstd;
  float2* partial;  // of a tile's parts, per channel
  Affine affine;
  float eps;
  bool relu;
};

// Stores the statistics where `writes`, and returns the coefficients of `normalise`.
template <class T, class P>
__device__ float4 finish_forward(const Forward<T>& f, const P& place, int c, float2 merged,
                                 float2 affine, bool writes) {
  const float rstd = 1 / sqrtf(merged.y / (float(place.layout.rows) * P::kShare) + f.eps);
  if (writes) {
    f.mean[place.statistic(c)] = merged.x;
    f.rstd[place.statistic(c)] = rstd;
  }
  return make_float4(merged.x, affine.x * rstd, affine.y, 0);
}

// Loads N packs from `row` on; with a residual their sum, which is stored as h.
template <class P, class T, int N, class Where>
__device__ __forceinline__ void load_rows(const Forward<T>& f, const Where& place, int row,
                                          int count, P (&packs)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < count) packs[i] = P::load(f.x, place.pack(row, i));
  if (f.residual == nullptr) return;
  constexpr int kBatch = N == 1   ? 1
                         : N == 8 ? 2
                                  : 4;  // what the registers of the largest kernel hold
#pragma unroll
  for (int i = 0; i < N; i += kBatch) {
    P residual[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (i + j < count) residual[j] = P::load(f.residual, place.pack(row, i + j));
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (i + j >= count) continue;
      const P x = packs[i + j];
      packs[i + j] = P::of([&](int e) { return x[e] + residual[j][e]; });
      packs[i + j].store(f.h, place.pack(row, i + j));
    }
  }
}

// blocks: x threads a tile, y tiles; with clusters the ranks of one are the parts of a tile
template <class T, int Bytes, bool Last, int N>
__global__ void __launch_bounds__(kThreads<Bytes, Last>, kBlocks<Bytes, Last>)
    forward_on_chip(const __grid_constant__ Forward<T> f, const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  if (layout.parts > 1) cluster_arrive();
  const int tile = int(blockIdx.x) / layout.parts * int(blockDim.y) + int(threadIdx.y);
  if (tile >= layout.tiles) return;  // a whole warp, in a launch without barriers
  const Place<T, Bytes, Last> place(layout, tile, int(blockIdx.x) % layout.parts);
  const Memory memory(bytes, place.lanes * place.kStats);
  const float2 affine = own_affine<T>(f.affine, place);
  P packs[N];
  const int count = place.count(place.row, N);
  load_rows(f, place, place.row, count, packs);
  float2 value[place.kStats];
  float4 coefficients[place.kStats];
  const float n = moments(packs, count, value);
  for (P& pack : packs) pack.forget();
  const bool writes = int(blockIdx.x) % layout.parts == 0;
  combine<Moments, Last>(
      place, memory, n, value, layout.parts, coefficients, [&](int c, float2 merged) {
        return finish_forward(f, place, c, merged, affine, writes && (Last || threadIdx.x == 0));
      });
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < count) normalise(packs[i], coefficients, f.relu).store(f.y, place.pack(place.row, i));
}

template <class T, int Bytes, bool Last>
__global__ void __launch_bounds__(256, 1)
    forward_statistics(const __grid_constant__ Forward<T> f,
                       const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  if (layout.ranks > 1) cluster_arrive();
  const int tile = layout.first + int(blockIdx.x) / layout.parts,
            part = int(blockIdx.x) % layout.parts;
  const Place<T, Bytes, Last> place(layout, tile, part);
  const Memory memory(bytes, place.lanes * place.kStats);
  float n = 0;
  float2 value[place.kStats], more[place.kStats];
  float4 unused[place.kStats];
#pragma unroll
  for (int s = 0; s < place.kStats; ++s) value[s] = make_float2(0, 0);
  for (int row = place.row; row < place.end; row += kStreamed * place.step) {
    P packs[kStreamed];
    const int count = place.count(row, kStreamed);
    load_rows(f, place, row, count, packs);
    const float added = moments(packs, count, more), weight = __fdividef(added, n + added);
#pragma unroll
    for (int s = 0; s < place.kStats; ++s) {
      const float off = more[s].x - value[s].x;
      value[s] =
          make_float2(value[s].x + off * weight, value[s].y + more[s].y + off * off * n * weight);
    }
    n += added;
  }
  const bool writes = part % layout.ranks == 0;
  combine<Moments, Last>(place, memory, n, value, layout.ranks, unused, [&](int c, float2 merged) {
    if (writes && (Last || threadIdx.x == 0))
      f.partial[partial_index(place, tile, part / layout.ranks, c)] = merged;
    return make_float4(0, 0, 0, 0);
  });
}

template <class T, int Bytes, bool Last>
__global__ void __launch_bounds__(256, 1)
    forward_apply(const __grid_constant__ Forward<T> f, const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  const int tile = layout.first + int(blockIdx.x) / layout.parts,
            part = int(blockIdx.x) % layout.parts;
  const Place<T, Bytes, Last> place(layout, tile, part);
  const Memory memory(bytes, place.lanes * place.kStats);
  const float2 affine = own_affine<T>(f.affine, place);
  float4 coefficients[place.kStats];
  share<Last>(coefficients, memory, place, [&](int c) {
    const float2 merged = merge_partials<Moments, Last>(f.partial, place, tile, c);
    return finish_forward(f, place, c, merged, affine, part == 0 && (Last || threadIdx.x == 0));
  });
  const T* const h = f.residual == nullptr ? f.x : f.h;
  for (int row = place.row; row < place.end; row += kStreamed * place.step) {
    P packs[kStreamed];
    const int count = place.count(row, kStreamed);
#pragma unroll
    for (int i = 0; i < kStreamed; ++i)
      if (i < count) packs[i] = P::load(h, place.pack(row, i));
#pragma unroll
    for (int i = 0; i < kStreamed; ++i)
      if (i < count) normalise(packs[i], coefficients, f.relu).store(f.y, place.pack(row, i));
  }
}

}  // namespace
}  // namespace talkinghead
