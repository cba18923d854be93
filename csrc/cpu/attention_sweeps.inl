// Part of cpu/attention.cpp, compiled once for each instruction set: the work of a task.

constexpr float kLog2OfE = 0x1.715476p+0f, kLogOf2 = 0x1.62e43p-1f;

template <typename T>
void pack(const Problem& p, int64_t sample, int64_t piece) {
  const int64_t begin = piece * kBlock;
  for (int64_t i = 0; i < p.count; ++i) {
    const Matrix& m = p.matrices[i];
    const int64_t rows = whole(m.rows, kTile), end = rows < begin + kBlock ? rows : begin + kBlock;
    const T* data = static_cast<const T*>(m.data) + sample * m.rows * m.features;
    if (m.by_row)
      pack_rows<T>(data, m.rows, m.features, begin, end, m.by_row + sample * m.row_size);
    if (m.by_column)
      pack_columns<T>(data, m.rows, m.features, begin, end, m.by_column + sample * m.column_size);
  }
}

// Words of a task's workspace: two matrices as lanes, two blocks of scores, two results and a row.
template <typename T>
int64_t scratch_size(const Problem& p) {
  const int64_t features = p.width + p.depth + 2 * kColumns;
  return (2 * features + 2 * kBlock) * kLanes + features;
}

// Processes kLanes queries: softmax over keys as they arrive, relative to the largest score so far.
template <typename T>
void forward(const Problem& p, int64_t sample, int64_t group, float* scratch) {
  using Type = typename WordsOf<T>::Type;
  const Matrix &query = p.matrices[0], &key = p.matrices[1], &value = p.matrices[2];
  const int64_t first = group * kLanes, remaining = p.queries - first, words = words_of<T>(p.width),
                columns = whole(p.depth, kColumns);
  float *lanes = scratch, *scores = lanes + words * kLanes, *sums = scores + kBlock * kLanes,
        *row = sums + columns * kLanes;
  const float *keys = key.by_row + sample * key.row_size,
              *values = value.by_column + sample * value.column_size;
  to_lanes(query.by_row + sample * query.row_size + first * words, words, lanes);
  for (int64_t i = 0; i < columns; ++i) store(sums + i * kLanes, Floats{});
  // Does not start from infinity: scores may be infinite, and the difference of infinities is NaN.
  Floats top = splat(-1e38f), total = {};
  for (int64_t start = 0; start < p.keys; start += kBlock) {
    const int64_t count = p.keys - start < kBlock ? p.keys - start : kBlock;
    const Floats largest =
        dot_products<Type>(lanes, words, keys + start * words, count, Floats{}, nullptr, scores);
    const Floats before = top;
    top = at_least(top, largest * kLog2OfE);
    Floats added = {};
    for (int64_t i = 0; i < count; i += 2) {
      const float* score = scores + i * kLanes;
      const Floats one = power_of_two<Type::kExactness>(load(score) * kLog2OfE - top);
      Floats other = {};
      if (i + 1 < count)
        other = power_of_two<Type::kExactness>(load(score + kLanes) * kLog2OfE - top);
      added += Type::store_weights(scores + i / Type::kPack * kLanes, one, other);
    }
    const Floats scale = power_of_two<5>(before - top);
    total = total * scale + added;
    mix<Type>(scores, words_of<T>(count), values + start / Type::kPack * columns, columns, scale,
              sums);
  }
  const int64_t count = remaining < kLanes ? remaining : kLanes;
  const int64_t place = sample * p.queries + first;
  for (int64_t lane = 0; lane < count; ++lane)
    p.lse[place + lane] = top[lane] * kLogOf2 + __builtin_logf(total[lane]);
  store_rows(sums, 1.0f / total, p.depth, count, static_cast<T*>(p.out) + place * p.depth, row);
}

// Values subtracted for each query: from its scores, the logarithm of their sum; from the gradients
// of its weights, their mean.
template <typename T>
void prepare(const Problem& p, int64_t sample, int64_t piece) {
  const int64_t begin = piece * kBlock, rows = whole(p.queries, kTile),
                end = rows < begin + kBlock ? rows : begin + kBlock;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t place = sample * p.queries + (row < p.queries ? row : p.queries - 1);
    const T *out = static_cast<const T*>(p.out) + place * p.depth,
            *grad = static_cast<const T*>(p.grad_out) + place * p.depth;
    Floats mean = {};
    int64_t i = 0;
    for (; i + kLanes <= p.depth; i += kLanes) mean += load(out + i) * load(grad + i);
    if (i < p.depth) mean += load_part(out + i, p.depth - i) * load_part(grad + i, p.depth - i);
    p.lse_padded[sample * rows + row] = p.lse[place];
    p.grad_start[sample * rows + row] = -sum(mean);
  }
}

// Processes kLanes rows of one side over all rows of the other. With weights w = exp(score - lse)
// and g = w * (gradient of w - its mean), the gradient of this side is the sum of the other side's
// features times g; values, which belong to the side of the keys, get the gradients of the result
// times w.
template <typename T, bool kQueries>
void backward(const Problem& p, int64_t sample, int64_t group, float* scratch) {
  using Type = typename WordsOf<T>::Type;
  const Matrix &features = p.matrices[kQueries ? 0 : 1], &others = p.matrices[kQueries ? 1 : 0],
               &values = p.matrices[kQueries ? 3 : 2], &grads = p.matrices[kQueries ? 2 : 3];
  const int64_t first = group * kLanes, remaining = features.rows - first,
                words = words_of<T>(p.width), deep_words = words_of<T>(p.depth),
                columns = whole(p.width, kColumns), deep_columns = whole(p.depth, kColumns),
                starts = sample * whole(p.queries, kTile);
  float *lanes = scratch, *deep_lanes = lanes + words * kLanes,
        *weights = deep_lanes + deep_words * kLanes, *changes = weights + kBlock * kLanes,
        *sums = changes + kBlock * kLanes, *deep_sums = sums + columns * kLanes,
        *row = deep_sums + deep_columns * kLanes;
  to_lanes(features.by_row + sample * features.row_size + first * words, words, lanes);
  to_lanes(values.by_row + sample * values.row_size + first * deep_words, deep_words, deep_lanes);
  for (int64_t i = 0; i < columns + deep_columns; ++i) store(sums + i * kLanes, Floats{});
  Floats own_lse = {}, grad_start = {};
  if constexpr (kQueries) {
    own_lse = load(p.lse_padded + starts + first);
    grad_start = load(p.grad_start + starts + first);
  }
  const Floats one = splat(1.0f);
  for (int64_t start = 0; start < others.rows; start += kBlock) {
    const int64_t count = others.rows - start < kBlock ? others.rows - start : kBlock;
    dot_products<Type>(lanes, words, others.by_row + sample * others.row_size + start * words,
                       count, Floats{}, nullptr, weights);
    dot_products<Type>(deep_lanes, deep_words,
                       grads.by_row + sample * grads.row_size + start * deep_words, count,
                       grad_start, kQueries ? nullptr : p.grad_start + starts + start, changes);
    for (int64_t i = 0; i < count; i += 2) {
      const float *score = weights + i * kLanes, *change = changes + i * kLanes;
      Floats w[2] = {}, g[2] = {};
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        if (i + k == count) break;  // the second row of the pair does not exist
        // subtracted last, so that only the difference is rounded
        const Floats lse = kQueries ? own_lse : p.lse_padded[starts + start + i + k] - Floats{};
        w[k] = power_of_two<Type::kExactness>((load(score + k * kLanes) - lse) * kLog2OfE);
        g[k] = w[k] * load(change + k * kLanes);
      }
      const int64_t place = i / Type::kPack * kLanes;
      if constexpr (!kQueries) Type::store_weights(weights + place, w[0], w[1]);
      Type::store_weights(changes + place, g[0], g[1]);
    }
    const int64_t at = start / Type::kPack;
    mix<Type>(changes, words_of<T>(count),
              others.by_column + sample * others.column_size + at * columns, columns, one, sums);
    if constexpr (!kQueries)
      mix<Type>(weights, words_of<T>(count),
                grads.by_column + sample * grads.column_size + at * deep_columns, deep_columns, one,
                deep_sums);
  }
  const int64_t count = remaining < kLanes ? remaining : kLanes,
                place = sample * features.rows + first;
  T* to = static_cast<T*>(kQueries ? p.grad_query : p.grad_key) + place * p.width;
  store_rows(sums, one, p.width, count, to, row);
  if constexpr (!kQueries)
    store_rows(deep_sums, one, p.depth, count, static_cast<T*>(p.grad_value) + place * p.depth,
               row);
}
