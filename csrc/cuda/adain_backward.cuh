// Kernels of AdaIN's backward pass.
#pragma once

#include "adain_tile.cuh"

namespace talkinghead {
namespace {

// The gradient before the affine; 0 where ReLU gave 0.
__device__ __forceinline__ float masked(float grad, float off, const float4& k, bool relu) {
  return relu && off * k.y + k.z <= 0 ? 0 : grad;
}

template <class T>
struct Backward {
  const T *grad_y, *grad_h, *h;  // grad_h may be null
  T* grad_x;
  const float *mean, *rstd;
  float *grad_scale, *grad_bias;
  float2* partial;
  Affine affine;
  bool relu;
};

// The coefficients of `normalise`, and rstd.
template <class T, class P>
__device__ float4 coefficients_of(const Backward<T>& b, const P& place, int c, float2 affine) {
  const float rstd = b.rstd[place.statistic(c)];
  return make_float4(b.mean[place.statistic(c)], affine.x * rstd, affine.y, rstd);
}

// sums: of g and of g * (h - mean). Returns mean(g) and the factor of (h - mean).
template <class T, class P>
__device__ float4 finish_backward(const Backward<T>& b, const P& place, int c, float2 sums,
                                  float rstd, bool writes) {
  const float inverse = 1 / (float(place.layout.rows) * P::kShare), grad_scale = sums.y * rstd;
  if (writes) {
    b.grad_scale[place.statistic(c)] = grad_scale;
    b.grad_bias[place.statistic(c)] = sums.x;
  }
  return make_float4(sums.x * inverse, grad_scale * inverse * rstd, 0, 0);
}

template <class T, class P, int N, class Where>
__device__ __forceinline__ void load_pair(const Backward<T>& b, const Where& place, int row,
                                          int count, P (&g)[N], P (&h)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i >= count) continue;
    g[i] = P::load(b.grad_y, place.pack(row, i));
    h[i] = P::load(b.h, place.pack(row, i));
  }
}

template <class P, int N, int S>
__device__ __forceinline__ void add_sums(const P (&g)[N], const P (&h)[N], int count,
                                         const float4 (&k)[S], bool relu, float2 (&sums)[S]) {
  constexpr int kShare = P::size / S;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      float2 of_pack = make_float2(0, 0);
#pragma unroll
      for (int e = 0; e < kShare; ++e) {
        const float off = h[i][s + e] - k[s].x;
        const float grad = masked(g[i][s + e], off, k[s], relu);
        of_pack = make_float2(of_pack.x + grad, of_pack.y + grad * off);
      }
      sums[s] = make_float2(sums[s].x + of_pack.x, sums[s].y + of_pack.y);
    }
  }
}

template <class T, class P, int N, int S, class Where>
__device__ __forceinline__ void store_gradient(const Backward<T>& b, const Where& place, int row,
                                               int count, const P (&g)[N], const P (&h)[N],
                                               const float4 (&k)[S], const float4 (&m)[S]) {
  P skip[N];
  if (b.grad_h != nullptr) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < count) skip[i] = P::load(b.grad_h, place.pack(row, i));
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (i >= count) continue;
    P::of([&](int e) {
      const int s = S > 1 ? e : 0;
      const float off = h[i][e] - k[s].x;
      const float grad = k[s].y * (masked(g[i][e], off, k[s], b.relu) - m[s].x - off * m[s].y);
      return b.grad_h == nullptr ? grad : grad + skip[i][e];
    }).store(b.grad_x, place.pack(row, i));
  }
}

template <class T, int Bytes, bool Last, int N>
__global__ void __launch_bounds__(kThreads<Bytes, Last>, kBlocks<Bytes, Last>)
    backward_on_chip(const __grid_constant__ Backward<T> b, const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  if (layout.parts > 1) cluster_arrive();
  const int tile = int(blockIdx.x) / layout.parts * int(blockDim.y) + int(threadIdx.y);
  if (tile >= layout.tiles) return;  // a whole warp, in a launch without barriers
  const Place<T, Bytes, Last> place(layout, tile, int(blockIdx.x) % layout.parts);
  const Memory memory(bytes, place.lanes * place.kStats);
  const float2 affine = own_affine<T>(b.affine, place);
  P g[N], h[N];
  const int count = place.count(place.row, N);
  load_pair(b, place, place.row, count, g, h);
  float4 before[place.kStats], after[place.kStats];
  float rstd = 0;  // of the thread's own channel
  share<Last>(before, memory, place, [&](int c) {
    const float4 own = coefficients_of(b, place, c, affine);
    rstd = own.w;
    return own;
  });
  float2 sums[place.kStats];
#pragma unroll
  for (int s = 0; s < place.kStats; ++s) sums[s] = make_float2(0, 0);
  add_sums(g, h, count, before, b.relu, sums);
  for (P& pack : g) pack.forget();
  for (P& pack : h) pack.forget();
  const bool writes = int(blockIdx.x) % layout.parts == 0;
  combine<Sums, Last>(place, memory, 0, sums, layout.parts, after, [&](int c, float2 merged) {
    return finish_backward(b, place, c, merged, rstd, writes && (Last || threadIdx.x == 0));
  });
  store_gradient(b, place, place.row, count, g, h, before, after);
}

template <class T, int Bytes, bool Last>
__global__ void __launch_bounds__(256, 1)
    backward_sums(const __grid_constant__ Backward<T> b, const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  if (layout.ranks > 1) cluster_arrive();
  const int tile = layout.first + int(blockIdx.x) / layout.parts,
            part = int(blockIdx.x) % layout.parts;
  const Place<T, Bytes, Last> place(layout, tile, part);
  const Memory memory(bytes, place.lanes * place.kStats);
  const float2 affine = own_affine<T>(b.affine, place);
  float4 before[place.kStats], unused[place.kStats];
  share<Last>(before, memory, place, [&](int c) { return coefficients_of(b, place, c, affine); });
  float2 sums[place.kStats];
#pragma unroll
  for (int s = 0; s < place.kStats; ++s) sums[s] = make_float2(0, 0);
  for (int row = place.row; row < place.end; row += kStreamed * place.step) {
    P g[kStreamed], h[kStreamed];
    const int count = place.count(row, kStreamed);
    load_pair(b, place, row, count, g, h);
    add_sums(g, h, count, before, b.relu, sums);
  }
  const bool writes = part % layout.ranks == 0;
  combine<Sums, Last>(place, memory, 0, sums, layout.ranks, unused, [&](int c, float2 merged) {
    if (writes && (Last || threadIdx.x == 0))
      b.partial[partial_index(place, tile, part / layout.ranks, c)] = merged;
    return make_float4(0, 0, 0, 0);
  });
}

template <class T, int Bytes, bool Last>
__global__ void __launch_bounds__(256, 1)
    backward_apply(const __grid_constant__ Backward<T> b, const __grid_constant__ Layout layout) {
  using P = Packed<T, Bytes>;
  TALKINGHEAD_DYNAMIC_SHARED(bytes);
  const int tile = layout.first + int(blockIdx.x) / layout.parts,
            part = int(blockIdx.x) % layout.parts;
  const Place<T, Bytes, Last> place(layout, tile, part);
  const Memory memory(bytes, place.lanes * place.kStats);
  const float2 affine = own_affine<T>(b.affine, place);
  float4 before[place.kStats], after[place.kStats];
  float rstd = 0;  // of the thread's own channel
  share<Last>(before, memory, place, [&](int c) {
    const float4 own = coefficients_of(b, place, c, affine);
    rstd = own.w;
    return own;
  });
  if (Last) __syncthreads();  // the memory is reused
  share<Last>(after, memory, place, [&](int c) {
    const float2 merged = merge_partials<Sums, Last>(b.partial, place, tile, c);
    return finish_backward(b, place, c, merged, rstd, part == 0 && (Last || threadIdx.x == 0));
  });
  for (int row = place.row; row < place.end; row += kStreamed * place.step) {
    P g[kStreamed], h[kStreamed];
    const int count = place.count(row, kStreamed);
    load_pair(b, place, row, count, g, h);
    store_gradient(b, place, row, count, g, h, before, after);
  }
}

}  // namespace
}  // namespace talkinghead
