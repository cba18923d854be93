// Part of cpu/warp_by_landmarks.cpp: a row of the motion field, one position per lane.

SIMD_INLINE Floats square_root(Floats v) {
#if SIMD_BYTES == 64
  return (Floats)_mm512_maskz_sqrt_ps(-1, (__m512)v);
#elif SIMD_BYTES == 32
  return (Floats)_mm256_sqrt_ps((__m256)v);
#elif SIMD_X86
  return (Floats)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__)
  return (Floats)vsqrtq_f32((float32x4_t)v);
#else
  Floats root;
  for (int64_t i = 0; i < kLanes; ++i) root[i] = __builtin_sqrtf(v[i]);
  return root;
#endif
}

// Means of target and source, minus the position.
struct Means {
  Floats dx, dy, sx, sy;
};

// Stores every point's weight in `shares`.
SIMD_INLINE Means weigh(const float* points, int64_t count, Floats x, float y, float* shares) {
  Means m = {};
  Floats total = {};
  for (int64_t i = 0; i < count; ++i) {
    const float* p = points + 5 * i;
    const Floats dx = p[0] - x, dy = splat(p[1] - y);
    const Floats squared = dx * dx + dy * dy + kSoftening;
    const Floats weight = p[4] / (squared * square_root(squared));
    store(shares + i * kLanes, weight);
    total += weight;
    m.dx += weight * dx;
    m.dy += weight * dy;
    m.sx += weight * (p[2] - x);
    m.sy += weight * (p[3] - y);
  }
  const Floats scale = 1.0f / total;
  for (int64_t i = 0; i < count; ++i) store(shares + i * kLanes, load(shares + i * kLanes) * scale);
  return {m.dx * scale, m.dy * scale, m.sx * scale, m.sy * scale};
}

// Computes one row [grid] of both planes of the field. shares: `count` vectors.
void motion_row(const Motion& m, int64_t sample, int64_t row, float* shares) {
  const float* points = m.points + sample * m.count * 5;
  float* across = m.motion + (sample * 2 * m.grid + row) * m.grid;
  float* down = across + m.grid * m.grid;
  const float side = static_cast<float>(m.grid), y = (static_cast<float>(row) + 0.5f) / side;
  for (int64_t first = 0; first < m.grid; first += kLanes) {
    Floats x;
    for (int64_t i = 0; i < kLanes; ++i) x[i] = (static_cast<float>(first + i) + 0.5f) / side;
    const Means mean = weigh(points, m.count, x, y, shares);
    Floats a11 = splat(kRidge), a12 = {}, a22 = splat(kRidge);
    Floats b11 = splat(kRidge), b12 = {}, b21 = {}, b22 = splat(kRidge);
    for (int64_t i = 0; i < m.count; ++i) {
      const float* p = points + 5 * i;
      const Floats share = load(shares + i * kLanes);
      const Floats dx = p[0] - x - mean.dx, dy = p[1] - y - mean.dy;
      const Floats sx = p[2] - x - mean.sx, sy = p[3] - y - mean.sy;
      const Floats wx = share * dx, wy = share * dy;
      a11 += wx * dx;
      a12 += wx * dy;
      a22 += wy * dy;
      b11 += wx * sx;
      b12 += wx * sy;
      b21 += wy * sx;
      b22 += wy * sy;
    }
    const Floats scale = 1.0f / (a11 * a22 - a12 * a12);
    const Floats u = scale * (a12 * mean.dy - a22 * mean.dx);  // (p - d*) A^-1
    const Floats v = scale * (a12 * mean.dx - a11 * mean.dy);
    const Floats right = u * b11 + v * b21 + mean.sx, below = u * b12 + v * b22 + mean.sy;
    const int64_t remaining = m.grid - first;
    if (remaining >= kLanes) {
      store(across + first, right);
      store(down + first, below);
    } else {
      store_part(across + first, right, remaining);
      store_part(down + first, below, remaining);
    }
  }
}
