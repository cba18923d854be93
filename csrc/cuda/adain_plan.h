// The division of a problem over a device by cuda/adain.cu. Host code without CUDA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace talkinghead {

// A tensor as seen by the kernels: tiles of `rows` rows, each of `lanes` neighbouring packs.
struct Layout {
  int tiles, tiles_per_sample, channels;
  int rows;    // NCHW: packs of a plane; channels_last: pixels
  int stride;  // packs from one row to the next
  int lanes;   // 1, or a power of two up to 32
  int slice;   // rows of a part
  int parts;   // blocks per tile
  int ranks;   // blocks of these per cluster
  int first;   // tile of the launch
};

struct Problem {
  int element_bytes;
  int64_t batch, channels, area;
  bool channels_last;
  bool aligned;  // every address is a multiple of 16
  int held;      // tensors kept by a thread: 1 forward, 2 backward
};

struct Plan {
  bool on_chip;
  int pack_bytes;
  int packs;  // of each tensor kept by a thread; on chip only
  int threads, tiles_per_block;
  int group;  // tiles of a launch
  Layout layout;
  size_t shared_bytes;
  int64_t partials;  // pairs of floats of workspace
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int power_of_two_from(int64_t least) {
  int value = 1;
  while (value < least) value *= 2;
  return value;
}

// Shared memory of a block with `channels` statistics, in the order of `Memory` in
// cuda/adain_tile.cuh.
inline size_t shared_bytes(int channels, int threads, int ranks) {
  return 16 * size_t(channels) + 128 + 8 * size_t(channels) * (threads / 32 + ranks);
}

constexpr int kClusterMost = 8;         // more is not portable
constexpr int64_t kRowsMost = 1 << 30;  // so that rows are counted in int

// NCHW: one warp per plane, or as many blocks as needed to keep the plane in registers and to use
// every multiprocessor.
inline bool plan_planes(Plan& plan, int multiprocessors, bool clusters, int held) {
  const bool wide = plan.pack_bytes == 16;
  const int rows = plan.layout.rows, tiles = plan.layout.tiles;
  const int few = wide ? 4 : 8 / held,
            most = (wide ? 8 : 16) / held;  // packs of a thread; kernels exist for these and 1
  for (int packs : {wide ? 1 : few, few}) {
    if (rows > 32 * packs) continue;
    plan.packs = packs;
    plan.threads = 32;
    plan.layout.slice = rows;
    while (plan.tiles_per_block < 8 && tiles / (2 * plan.tiles_per_block) >= multiprocessors)
      plan.tiles_per_block *= 2;
    plan.shared_bytes = 0;
    return true;
  }
  int& parts = plan.layout.parts;
  while (clusters && parts < kClusterMost && divide_up(rows, parts) > 512 * most) parts *= 2;
  if (divide_up(rows, parts) > (wide ? 1024 : 512) * most) return false;
  while (clusters && parts < kClusterMost && tiles * parts < multiprocessors &&
         rows / (2 * parts) >= 32 * most)
    parts *= 2;
  const int slice = int(divide_up(rows, parts));
  plan.packs = slice <= 512 * few ? few : most;
  plan.threads = int(divide_up(divide_up(slice, plan.packs), 32)) * 32;
  plan.layout.slice = slice;
  plan.layout.ranks = parts;
  plan.shared_bytes = shared_bytes(1, plan.threads, parts);
  return true;
}

// channels_last: 64 or 32 neighbouring bytes of every pixel, over the blocks of a cluster; 32 where
// 64 do not fit or leave multiprocessors idle.
inline bool plan_pixels(Plan& plan, const Problem& problem, int multiprocessors, bool clusters) {
  const int most = 8 / problem.held, rows = plan.layout.rows,
            width = plan.pack_bytes / problem.element_bytes;
  bool exists = false;
  for (int bytes : {64, 32}) {
    const int lanes = std::min(bytes / plan.pack_bytes, power_of_two_from(plan.layout.stride));
    const int tiles_per_sample = int(divide_up(plan.layout.stride, lanes));
    const int64_t tiles = problem.batch * tiles_per_sample;
    int parts = 1;
    while (clusters && parts < kClusterMost && divide_up(rows, parts) > 512 / lanes * most)
      parts *= 2;
    if (divide_up(rows, parts) > 512 / lanes * most) continue;
    while (clusters && parts < kClusterMost && tiles * parts < multiprocessors &&
           rows / (2 * parts) * lanes >= 128)
      parts *= 2;
    const int slice = int(divide_up(rows, parts));
    plan.packs = slice <= 256 / lanes * 4 ? 4 : most;
    plan.threads = int(divide_up(divide_up(slice, plan.packs) * lanes, 32)) * 32;
    plan.layout.tiles = int(tiles);
    plan.layout.tiles_per_sample = tiles_per_sample;
    plan.layout.lanes = lanes;
    plan.layout.slice = slice;
    plan.layout.parts = plan.layout.ranks = parts;
    plan.shared_bytes = shared_bytes(lanes * width, plan.threads, parts);
    exists = true;
    if (2 * tiles * parts >= multiprocessors) break;
  }
  return exists;
}

// A tile too large for registers: two kernels read it, for groups of tiles that fit into a third of
// the L2 cache.
inline void plan_streamed(Plan& plan, const Problem& problem, int multiprocessors, bool clusters,
                          int64_t l2_bytes) {
  Layout& layout = plan.layout;
  const int width = problem.channels_last ? plan.pack_bytes / problem.element_bytes : 1;
  if (problem.channels_last) {
    layout.lanes = std::min(32, power_of_two_from(layout.stride));
    const int64_t lane_bytes = int64_t(layout.rows) * plan.pack_bytes * problem.held;
    while (layout.lanes > 4 && lane_bytes * layout.lanes > l2_bytes / 3) layout.lanes /= 2;
    layout.tiles_per_sample = int(divide_up(layout.stride, layout.lanes));
    layout.tiles = int(problem.batch * layout.tiles_per_sample);
  }
  plan.threads = 256;
  plan.packs = 0;
  const int64_t tile_bytes = int64_t(layout.rows) * layout.lanes * plan.pack_bytes * problem.held;
  const int64_t fit = std::max<int64_t>(1, l2_bytes / 3 / tile_bytes);
  plan.group = layout.tiles <= fit + fit / 2 ? layout.tiles : int(fit);
  // a warp, or a thread for each channel, merges the partial results
  const int ranks = clusters ? kClusterMost : 1,
            partials = problem.channels_last && !clusters ? 128 : 32;
  const int64_t iteration = 4 * plan.threads / layout.lanes;
  const int64_t target =
      std::min(divide_up(4 * multiprocessors, plan.group), divide_up(layout.rows, iteration));
  layout.ranks = int(std::min<int64_t>(ranks, power_of_two_from(target)));
  layout.parts = int(std::min<int64_t>(partials, divide_up(target, layout.ranks))) * layout.ranks;
  layout.slice = int(divide_up(layout.rows, layout.parts));
  plan.partials = int64_t(layout.tiles) * (layout.parts / layout.ranks) * layout.lanes * width;
  plan.shared_bytes = shared_bytes(layout.lanes * width, plan.threads, layout.ranks);
}

inline Plan plan_adain(const Problem& problem, int multiprocessors, bool clusters,
                       int64_t l2_bytes) {
  const int64_t row_elements = problem.channels_last ? problem.channels : problem.area;
  Plan plan = {};
  plan.pack_bytes = problem.aligned && row_elements * problem.element_bytes % 16 == 0
                        ? 16
                        : problem.element_bytes;
  const int64_t row_packs = row_elements * problem.element_bytes / plan.pack_bytes;
  plan.tiles_per_block = 1;
  Layout& layout = plan.layout;
  layout.lanes = layout.parts = layout.ranks = 1;
  layout.channels = int(problem.channels);
  if (problem.channels_last) {
    layout.rows = int(problem.area);
    layout.stride = int(row_packs);
    plan.on_chip = plan_pixels(plan, problem, multiprocessors, clusters);
  } else {
    layout.rows = int(row_packs);
    layout.stride = 1;
    layout.tiles_per_sample = int(problem.channels);
    layout.tiles = int(problem.batch * problem.channels);
    plan.on_chip = plan_planes(plan, multiprocessors, clusters, problem.held);
  }
  if (plan.on_chip) {
    plan.group = layout.tiles;
  } else {
    plan_streamed(plan, problem, multiprocessors, clusters, l2_bytes);
  }
  return plan;
}

}  // namespace talkinghead
