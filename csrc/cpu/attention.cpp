// Attention of one head on the CPU. Formula: kernels/talkinghead_kernels/attention.py; layouts:
// extension.py in the same folder.
//
// The matrix of scores is never held in full. A task processes as many rows of one side as a vector
// has lanes, one row per lane, over all rows of the other side, a block at a time. It uses two
// products: over features, which gives scores, and over rows, which mixes rows. Both read the other
// side one number at a time, so that lanes are independent, and both sides are first packed in the
// order in which they are read. Tasks write to separate memory and depend on the shape only, so
// results do not depend on the number of threads.
#include "channels_last.h"

#include <algorithm>
#include <memory>

namespace talkinghead {
namespace {

constexpr int64_t kBlock = 128;      // rows whose scores stay in the first-level cache
constexpr int64_t kTile = 16;        // packed rows are a multiple of it
constexpr int64_t kColumns = 8;      // packed columns are a multiple of it
constexpr int64_t kGrain = 1 << 19;  // minimum number of multiplications per thread

// A tensor [B, rows, features] and its packed copies: for products over features, over rows, or
// both. Sizes are floats per sample.
struct Matrix {
  const void* data;
  int64_t rows, features;
  bool needs_rows, needs_columns;
  float *by_row, *by_column;
  int64_t row_size, column_size;
};

struct Problem {
  Matrix matrices[4];                          // query, key, value; backward, the result's gradient
  int64_t count;                               // of them
  int64_t batch, queries, keys, width, depth;  // [B, N, d], [B, M, d], [B, M, e]
  void* out;
  float* lse;
  const void* grad_out;  // backward only, as all fields below
  void *grad_query, *grad_key, *grad_value;
  // [B, whole(N, kTile)]: lse, and minus the mean gradient of the weights
  float *lse_padded, *grad_start;
};

struct Kernels {
  int64_t lanes, pack_size;
  int64_t (*scratch_size)(const Problem&);
  void (*pack)(const Problem&, int64_t sample, int64_t piece);
  void (*forward)(const Problem&, int64_t sample, int64_t group, float* scratch);
  void (*prepare)(const Problem&, int64_t sample, int64_t piece);
  void (*backward_queries)(const Problem&, int64_t sample, int64_t group, float* scratch);
  void (*backward_keys)(const Problem&, int64_t sample, int64_t group, float* scratch);
};

}  // namespace
}  // namespace talkinghead

#define SIMD_FILE "cpu/attention.cpp"
#include "simd.h"

#ifdef SIMD_PASS

#include "attention_tiles.inl"
#include "attention_sweeps.inl"

template <typename T>
constexpr Kernels kKernels = {
    kLanes,     WordsOf<T>::Type::kPack, scratch_size<T>,   pack<T>, forward<T>,
    prepare<T>, backward<T, true>,       backward<T, false>};

#else

namespace talkinghead {
namespace {

const Kernels& kernels_for(ScalarType dtype) {
  if (dtype == ScalarType::Float) return *SIMD_BEST(kKernels<float>);
  if (dtype == ScalarType::BFloat16) return *SIMD_BEST(kKernels<BFloat16>);
  STD_TORCH_CHECK(dtype == ScalarType::Half,
                  "attention: query must be float32, bfloat16 or float16");
  return *SIMD_BEST(kKernels<Half>);
}

void pack_all(Problem& p, const Kernels& kernels, std::unique_ptr<Lines>& packed) {
  const auto words = [&](int64_t count) {
    return (count + kernels.pack_size - 1) / kernels.pack_size;
  };
  int64_t size = 0, longest = 0;
  for (int64_t i = 0; i < p.count; ++i) {
    Matrix& m = p.matrices[i];
    const int64_t rows = whole(m.rows, kTile);
    m.row_size = m.needs_rows ? rows * words(m.features) : 0;
    m.column_size = m.needs_columns ? words(rows) * whole(m.features, kColumns) : 0;
    size += whole(m.row_size * p.batch, 16) + whole(m.column_size * p.batch, 16);
    longest = std::max(longest, rows);
  }
  packed = std::make_unique<Lines>(size);
  float* next = packed->start;
  for (int64_t i = 0; i < p.count; ++i) {
    Matrix& m = p.matrices[i];
    m.by_row = m.needs_rows ? next : nullptr;
    next += whole(m.row_size * p.batch, 16);
    m.by_column = m.needs_columns ? next : nullptr;
    next += whole(m.column_size * p.batch, 16);
  }
  const int64_t pieces = (longest + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kGrain / (16 * kBlock * (p.width + p.depth)));
  torch::stable::parallel_for(0, p.batch * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels.pack(p, i / pieces, i % pieces);
      if (p.grad_out) kernels.prepare(p, i / pieces, i % pieces);
    }
  });
}

void add(Problem& p, const Tensor& tensor, bool needs_rows, bool needs_columns) {
  Matrix& m = p.matrices[p.count++];
  m.data = tensor.data_ptr();
  m.rows = tensor.size(1);
  m.features = tensor.size(2);
  m.needs_rows = needs_rows;
  m.needs_columns = needs_columns;
}

// one task for every group of rows of one side
template <typename Task>
void for_groups(const Problem& p, const Kernels& kernels, int64_t rows, const Task& task) {
  const int64_t groups = (rows + kernels.lanes - 1) / kernels.lanes;
  const int64_t others = p.queries + p.keys - rows + 1;  // never 0
  const int64_t grain =
      std::max<int64_t>(1, kGrain / (kernels.lanes * others * (p.width + p.depth + 8)));
  torch::stable::parallel_for(0, p.batch * groups, grain, [&](int64_t begin, int64_t end) {
    const Lines scratch(kernels.scratch_size(p));
    for (int64_t i = begin; i < end; ++i) task(p, i / groups, i % groups, scratch.start);
  });
}

// Checks what would read or write out of bounds; Python has checked the rest.
void check(const Tensor& tensor, ScalarType dtype, int64_t batch, int64_t rows, int64_t features) {
  STD_TORCH_CHECK(tensor.dim() == 3 && tensor.size(0) == batch && tensor.size(1) == rows &&
                      tensor.size(2) == features && tensor.scalar_type() == dtype &&
                      tensor.is_contiguous(),
                  "attention: tensors must be contiguous and agree in size and dtype");
}

Problem problem_of(const Tensor& query, const Tensor& key, const Tensor& value) {
  STD_TORCH_CHECK(
      query.dim() == 3 && key.dim() == 3 && value.dim() == 3 && key.size(1) > 0 &&
          query.size(2) > 0 && value.size(2) > 0,
      "attention: query, key and value must have three dimensions, key and value not empty");
  Problem p = {};
  p.batch = query.size(0);
  p.queries = query.size(1);
  p.keys = key.size(1);
  p.width = query.size(2);
  p.depth = value.size(2);
  check(query, query.scalar_type(), p.batch, p.queries, p.width);
  check(key, query.scalar_type(), p.batch, p.keys, p.width);
  check(value, query.scalar_type(), p.batch, p.keys, p.depth);
  return p;
}

float* row_values(const Problem& p, const Tensor& values) {
  STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == p.batch && values.size(1) == p.queries &&
                      values.scalar_type() == ScalarType::Float && values.is_contiguous(),
                  "attention: lse must be float32 [B, N] and contiguous");
  return static_cast<float*>(values.data_ptr());
}

void attention_forward(const Tensor& query, const Tensor& key, const Tensor& value, Tensor out,
                       Tensor lse) {
  Problem p = problem_of(query, key, value);
  check(out, query.scalar_type(), p.batch, p.queries, p.depth);
  p.out = out.data_ptr();
  p.lse = row_values(p, lse);
  add(p, query, true, false);
  add(p, key, true, false);
  add(p, value, false, true);
  const Kernels& kernels = kernels_for(query.scalar_type());
  std::unique_ptr<Lines> packed;
  pack_all(p, kernels, packed);
  for_groups(p, kernels, p.queries, kernels.forward);
}

void attention_backward(const Tensor& grad_out, const Tensor& query, const Tensor& key,
                        const Tensor& value, const Tensor& out, const Tensor& lse,
                        Tensor grad_query, Tensor grad_key, Tensor grad_value) {
  Problem p = problem_of(query, key, value);
  for (const auto& tensor : {grad_out, out})
    check(tensor, query.scalar_type(), p.batch, p.queries, p.depth);
  check(grad_query, query.scalar_type(), p.batch, p.queries, p.width);
  check(grad_key, query.scalar_type(), p.batch, p.keys, p.width);
  check(grad_value, query.scalar_type(), p.batch, p.keys, p.depth);
  p.out = out.data_ptr();
  p.lse = row_values(p, lse);
  p.grad_out = grad_out.data_ptr();
  p.grad_query = grad_query.data_ptr();
  p.grad_key = grad_key.data_ptr();
  p.grad_value = grad_value.data_ptr();
  add(p, query, true, true);
  add(p, key, true, true);
  add(p, value, true, false);
  add(p, grad_out, true, true);
  const int64_t starts = p.batch * whole(p.queries, kTile);
  const Lines both(2 * starts);
  p.lse_padded = both.start;
  p.grad_start = both.start + starts;
  const Kernels& kernels = kernels_for(query.scalar_type());
  std::unique_ptr<Lines> packed;
  pack_all(p, kernels, packed);
  for_groups(p, kernels, p.queries, kernels.backward_queries);
  for_groups(p, kernels, p.keys, kernels.backward_keys);
}

}  // namespace
}  // namespace talkinghead

STABLE_TORCH_LIBRARY_IMPL(talkinghead_native, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&talkinghead::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&talkinghead::attention_backward));
}

#endif
