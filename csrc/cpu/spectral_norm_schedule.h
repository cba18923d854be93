// The work list of spectral_norm.cpp: blocks of rows of all layers, processed by threads in order.
#pragma once

#include "torch_abi.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace talkinghead {
namespace {

constexpr int64_t kLayerRows = 16;  // rows of a block are a multiple of it

struct Layer {
  const float* weight;
  int64_t rows, columns, inputs;
  int64_t first_block, block_rows, blocks;
};

struct Item {
  int64_t layer, first, last;  // rows
  int64_t block;               // among the blocks of all layers
  enum Phase { kReduce, kWrite, kBoth } phase;
};

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::vector<Layer> split_into_blocks(const std::vector<Tensor>& weights, int64_t block_elements) {
  std::vector<Layer> layers;
  int64_t block = 0;
  for (const Tensor& weight : weights) {
    Layer layer;
    layer.weight = static_cast<const float*>(weight.data_ptr());
    layer.rows = weight.size(0);
    layer.columns = weight.numel() / layer.rows;
    layer.inputs = weight.size(1);
    layer.block_rows = round_up(std::max<int64_t>(1, block_elements / layer.columns), kLayerRows);
    layer.blocks = (layer.rows + layer.block_rows - 1) / layer.block_rows;
    layer.first_block = block;
    block += layer.blocks;
    layers.push_back(layer);
  }
  return layers;
}

Item make_item(const std::vector<Layer>& layers, int64_t layer, int64_t block, Item::Phase phase) {
  const Layer& l = layers[layer];
  const int64_t first = block * l.block_rows;
  return {layer, first, std::min(l.rows, first + l.block_rows), l.first_block + block, phase};
}

// Threads process items in order. An item may wait for earlier items, never for later ones.
template <class Run>
void run_in_order(int64_t count, const Run& run) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) run(i);
  });
}

// Reduces every layer by blocks, then writes it by blocks. `reduce(item, layer)` returns a block's
// partial sum, `write(item, layer, sum)` gets the sum of the layer.
template <class Reduce, class Write>
void reduce_then_write(const std::vector<Layer>& layers, const Reduce& reduce, const Write& write) {
  std::vector<Item> items;
  for (int64_t l = 0; l < int64_t(layers.size()); ++l) {
    const int64_t blocks = layers[l].blocks;
    if (blocks == 1) {
      items.push_back(make_item(layers, l, 0, Item::kBoth));
      continue;
    }
    for (int64_t b = 0; b < blocks; ++b) items.push_back(make_item(layers, l, b, Item::kReduce));
    for (int64_t b = blocks; b-- > 0;) items.push_back(make_item(layers, l, b, Item::kWrite));
  }
  std::vector<double> partials(layers.back().first_block + layers.back().blocks);
  std::vector<std::atomic<int64_t>> waiting(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) waiting[l] = layers[l].blocks;

  run_in_order(items.size(), [&](int64_t i) {
    const Item& item = items[i];
    const Layer& layer = layers[item.layer];
    if (item.phase != Item::kWrite) {
      partials[item.block] = reduce(item, layer);
      waiting[item.layer].fetch_sub(1, std::memory_order_acq_rel);
    }
    if (item.phase != Item::kReduce) {
      while (waiting[item.layer].load(std::memory_order_acquire)) std::this_thread::yield();
      double sum = 0;
      for (int64_t b = 0; b < layer.blocks; ++b) sum += partials[layer.first_block + b];
      write(item, layer, sum);
    }
  });
}

}  // namespace
}  // namespace talkinghead
