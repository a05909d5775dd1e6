// The vectorised kernels. dispatch.cpp includes this file once for each instruction set, inside of a namespace and a
// target region of its own, with SQR_VECTOR_BYTES set to the width of that set's registers.

// Unaligned vectors of the instruction set's own width, in the vector extensions of GCC and Clang.
template <class T>
struct Simd {
  static constexpr int kLanes = SQR_VECTOR_BYTES / sizeof(T);
  typedef T Vector __attribute__((vector_size(SQR_VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(SQR_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};

template <class T>
SQR_INLINE typename Simd<T>::Vector load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <class T>
SQR_INLINE void store(T* p, typename Simd<T>::Vector v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

// The taps of a block as structure of arrays, carved out of one scratch buffer.
template <class T>
struct Taps {
  T *x, *y, *weight;                    // in: location and weight
  T *scale_x, *scale_y;                 // in: the tap's level
  int32_t *width, *height, *start;      // in: the tap's level
  T *lx, *ly;                           // out: position inside of the pixel square, [0, 1)
  T* corner_weight[4];                  // out: bilinear weight times tap weight: top left, top right, bottom ...
  int32_t* corner[4];                   // out: row of the corner, -1 where it lies outside
  T* dots;                              // backward: (taps, 4) products of a corner's row with the output gradient

  Taps(void* scratch, int64_t capacity, bool with_dots) {
    char* p = static_cast<char*>(scratch);
    auto carve = [&](auto*& array, int64_t n) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(p);
      p += n * sizeof(*array);
    };
    for (T** a : {&x, &y, &weight, &scale_x, &scale_y, &lx, &ly}) carve(*a, capacity);
    for (T*& a : corner_weight) carve(a, capacity);
    for (int32_t** a : {&width, &height, &start}) carve(*a, capacity);
    for (int32_t*& a : corner) carve(a, capacity);
    dots = nullptr;
    if (with_dots) carve(dots, 4 * capacity);
  }

  SQR_INLINE void set_level(int64_t i, const Level<T>& level) const {
    scale_x[i] = level.scale_x;
    scale_y[i] = level.scale_y;
    width[i] = level.width;
    height[i] = level.height;
    start[i] = static_cast<int32_t>(level.start);
  }
};

// Locations to corners and weights. A position outside of (-1, width) x (-1, height), or one that is not a number,
// has no corner inside; one that is clamped to -2 keeps the conversion to int defined.
template <class T>
SQR_INLINE void locate(const Taps<T>& taps, int64_t n) {
  const T *__restrict x = taps.x, *__restrict y = taps.y, *__restrict a = taps.weight;
  const T *__restrict sx = taps.scale_x, *__restrict sy = taps.scale_y;
  const int32_t *__restrict w = taps.width, *__restrict h = taps.height, *__restrict s = taps.start;
  T *__restrict olx = taps.lx, *__restrict oly = taps.ly;
  T *__restrict w0 = taps.corner_weight[0], *__restrict w1 = taps.corner_weight[1];
  T *__restrict w2 = taps.corner_weight[2], *__restrict w3 = taps.corner_weight[3];
  int32_t *__restrict c0 = taps.corner[0], *__restrict c1 = taps.corner[1];
  int32_t *__restrict c2 = taps.corner[2], *__restrict c3 = taps.corner[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T px = x[i] * sx[i] - T(0.5), py = y[i] * sy[i] - T(0.5);
    const bool inside = (px > T(-1)) & (px < T(w[i])) & (py > T(-1)) & (py < T(h[i]));
    px = inside ? px : T(-2);
    py = inside ? py : T(-2);
    int32_t x0 = static_cast<int32_t>(px), y0 = static_cast<int32_t>(py);
    x0 -= T(x0) > px;  // truncation to floor
    y0 -= T(y0) > py;
    const T lx = px - T(x0), ly = py - T(y0), hx = T(1) - lx, hy = T(1) - ly;
    olx[i] = lx;
    oly[i] = ly;
    w0[i] = a[i] * hy * hx;
    w1[i] = a[i] * hy * lx;
    w2[i] = a[i] * ly * hx;
    w3[i] = a[i] * ly * lx;
    const bool left = x0 >= 0, right = (x0 >= -1) & (x0 + 1 < w[i]);
    const bool top = y0 >= 0, bottom = (y0 >= -1) & (y0 + 1 < h[i]);
    const int32_t first = s[i] + y0 * w[i] + x0;
    c0[i] = (top & left) ? first : -1;
    c1[i] = (top & right) ? first + 1 : -1;
    c2[i] = (bottom & left) ? first + w[i] : -1;
    c3[i] = (bottom & right) ? first + w[i] + 1 : -1;
  }
}

template <class T>
SQR_INLINE void prefetch(const T* p, int64_t elements) {
  for (int64_t i = 0; i < elements; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i);
}

// out[0, kRow) = the weighted sum of the taps [begin, end). The two rows of a pixel square are summed apart so that
// the chains of additions are short enough to keep the multipliers busy.
template <class T, int kRow>
SQR_INLINE void sum_taps(const ForwardTask<T>& t, const Taps<T>& taps, int64_t begin, int64_t end, int64_t column,
                         T* out) {
  constexpr int kLanes = Simd<T>::kLanes, kVectors = kRow / kLanes, kChains = kVectors > 4 ? 1 : 2;
  typename Simd<T>::Vector sum[kChains][kVectors] = {};
  const T* value = t.value + column;
  const T* zeros = t.zeros;
  for (int64_t i = begin; i < end; ++i) {
    for (int c = 0; c < 4; ++c) {
      const int64_t index = taps.corner[c][i];
      const T* row = index >= 0 ? value + index * t.row_stride : zeros;
      const T w = taps.corner_weight[c][i];
      for (int v = 0; v < kVectors; ++v) sum[c / 2 % kChains][v] += w * load(row + v * kLanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) store(out + v * kLanes, kChains == 2 ? sum[0][v] + sum[1][v] : sum[0][v]);
}

template <class T>
SQR_INLINE void forward_kernel(const ForwardTask<T>& t) {
  const int64_t count = int64_t(t.num_levels) * t.points, capacity = round_up(count, 16);
  const int64_t rows = t.keep_points ? t.points : 1, per_row = count / rows;
  const int64_t half = forward_scratch_bytes(count, sizeof(T)) / 2;
  Taps<T> buffers[2] = {{t.scratch, capacity, false}, {static_cast<char*>(t.scratch) + half, capacity, false}};
  for (auto& taps : buffers) {
    for (int64_t i = 0; i < count; ++i) {
      taps.set_level(i, t.levels[t.keep_points ? i % t.num_levels : i / t.points]);
    }
  }
  auto find = [&](int64_t q) __attribute__((always_inline)) {
    const Taps<T>& taps = buffers[q & 1];
    const T* location = t.locations + q * t.location_stride;
    const T* weight = t.weights + q * t.weight_stride;
    for (int64_t i = 0; i < count; ++i) taps.weight[i] = weight[i];
    if (t.keep_points) {
      for (int64_t p = 0, i = 0; p < t.points; ++p) {
        for (int64_t l = 0; l < t.num_levels; ++l, ++i) {
          taps.x[i] = location[2 * p];
          taps.y[i] = location[2 * p + 1];
        }
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        taps.x[i] = location[2 * i];
        taps.y[i] = location[2 * i + 1];
      }
    }
    locate(taps, count);
    if (t.prefetch_value) {
      for (int64_t i = 0; i < count; ++i) {
        for (int c = 0; c < 4; ++c) {
          if (taps.corner[c][i] >= 0) prefetch(t.value + taps.corner[c][i] * t.row_stride, t.row);
        }
      }
    }
  };
  if (t.begin < t.end) find(t.begin);
  for (int64_t q = t.begin; q < t.end; ++q) {
    if (q + 2 < t.end) {  // the hardware does not follow the stride from query to query
      prefetch(t.locations + (q + 2) * t.location_stride, t.keep_points ? 2 * t.points : 2 * count);
      prefetch(t.weights + (q + 2) * t.weight_stride, count);
    }
    if (q + 1 < t.end) find(q + 1);
    const Taps<T>& taps = buffers[q & 1];
    for (int64_t r = 0; r < rows; ++r) {
      T* out = t.out + q * t.out_stride + r * t.row;
      const int64_t first = r * per_row, last = first + per_row;
      int64_t column = 0;
      for (; column + 64 <= t.row; column += 64) sum_taps<T, 64>(t, taps, first, last, column, out + column);
      for (; column + 32 <= t.row; column += 32) sum_taps<T, 32>(t, taps, first, last, column, out + column);
      for (; column < t.row; column += 16) sum_taps<T, 16>(t, taps, first, last, column, out + column);
    }
  }
}

// Horizontal sums of four vectors at once.
template <class T>
SQR_INLINE void add_sums(const typename Simd<T>::Vector (&v)[4], T* out) {
#if SQR_HAS_SHUFFLEVECTOR
  typedef T Quad __attribute__((vector_size(4 * sizeof(T))));
  typedef T QuadUnaligned __attribute__((vector_size(4 * sizeof(T)), aligned(alignof(T)), may_alias));
  if constexpr (Simd<T>::kLanes >= 4) {
    Quad q[4];
    for (int i = 0; i < 4; ++i) {
      if constexpr (Simd<T>::kLanes == 16) {
        auto h = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v[i], v[i], 8, 9, 10, 11, 12, 13, 14, 15);
        q[i] = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
      } else if constexpr (Simd<T>::kLanes == 8) {
        q[i] = __builtin_shufflevector(v[i], v[i], 0, 1, 2, 3) + __builtin_shufflevector(v[i], v[i], 4, 5, 6, 7);
      } else {
        q[i] = v[i];
      }
    }
    const Quad ab = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5) + __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7);
    const Quad cd = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5) + __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
    QuadUnaligned* target = reinterpret_cast<QuadUnaligned*>(out);
    *target += __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    return;
  }
#endif
  for (int i = 0; i < 4; ++i) {
    T sum = 0;
    for (int j = 0; j < Simd<T>::kLanes; ++j) sum += v[i][j];
    out[i] += sum;
  }
}

// Columns [column, column + kRow) of the taps' gradients: adds to the pixels and to the dot products.
template <class T, int kRow>
SQR_INLINE void scatter_taps(const BackwardTask<T>& t, const Taps<T>& taps, int64_t query, int64_t n, int64_t column) {
  constexpr int kLanes = Simd<T>::kLanes, kVectors = kRow / kLanes;
  using Vector = typename Simd<T>::Vector;
  const T* value = t.value + column;
  T* grad_value = t.grad_value + column;
  const T *zeros = t.zeros, *grad_query = t.grad_out + query * t.out_stride + column;
  for (int64_t i = 0; i < n; grad_query += t.out_stride) {
    const T* grad_row = grad_query;
    for (int64_t p = 0; p < t.points; ++p, ++i, grad_row += t.out_point_stride) {
      Vector grad[kVectors], products[4];
      for (int v = 0; v < kVectors; ++v) grad[v] = load(grad_row + v * kLanes);
      for (int c = 0; c < 4; ++c) {
        const int64_t index = taps.corner[c][i], offset = index * t.row_stride;
        const T* row = index >= 0 ? value + offset : zeros;
        T* target = index >= 0 ? grad_value + offset : t.sink;
        const T w = taps.corner_weight[c][i];
        Vector product = grad[0] * load(row);
        store(target, load(target) + w * grad[0]);
        for (int v = 1; v < kVectors; ++v) {
          product += grad[v] * load(row + v * kLanes);
          store(target + v * kLanes, load(target + v * kLanes) + w * grad[v]);
        }
        products[c] = product;
      }
      add_sums<T>(products, taps.dots + 4 * i);
    }
  }
}

template <class T>
SQR_INLINE void backward_kernel(const BackwardTask<T>& t) {
  const int64_t points = t.points, block = std::max<int64_t>(1, kTapBlock / points);
  const int64_t capacity = round_up(block * points, 16);
  const Taps<T> taps(t.scratch, capacity, true);
  for (int64_t i = 0; i < capacity; ++i) taps.set_level(i, t.level);
  for (int64_t first = 0; first < t.queries; first += block) {
    const int64_t last = std::min(first + block, t.queries), n = (last - first) * points;
    for (int64_t q = last; q < std::min(last + block, t.queries); ++q) {
      prefetch(t.locations + q * t.location_stride, 2 * points);
      prefetch(t.weights + q * t.weight_stride, points * t.weight_point_stride);
      if (t.out_point_stride == 0) prefetch(t.grad_out + q * t.out_stride, t.row);
    }
    for (int64_t q = first, i = 0; q < last; ++q) {
      const T* location = t.locations + q * t.location_stride;
      const T* weight = t.weights + q * t.weight_stride;
      for (int64_t p = 0; p < points; ++p, ++i) {
        taps.x[i] = location[2 * p];
        taps.y[i] = location[2 * p + 1];
        taps.weight[i] = weight[p * t.weight_point_stride];
      }
    }
    locate(taps, n);
    for (int64_t i = 0; i < 4 * n; ++i) taps.dots[i] = 0;
    int64_t column = 0;
    for (; column + 64 <= t.row; column += 64) scatter_taps<T, 64>(t, taps, first, n, column);
    for (; column + 32 <= t.row; column += 32) scatter_taps<T, 32>(t, taps, first, n, column);
    for (; column < t.row; column += 16) scatter_taps<T, 16>(t, taps, first, n, column);

    // x, y and weight have done their work: they take the gradients.
    T *__restrict gx = taps.x, *__restrict gy = taps.y, *__restrict gw = taps.weight;
    const T *__restrict lx = taps.lx, *__restrict ly = taps.ly, *__restrict dots = taps.dots;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T d0 = dots[4 * i], d1 = dots[4 * i + 1], d2 = dots[4 * i + 2], d3 = dots[4 * i + 3];
      const T hx = T(1) - lx[i], hy = T(1) - ly[i], w = gw[i];
      gx[i] = w * t.level.scale_x * (hy * (d1 - d0) + ly[i] * (d3 - d2));
      gy[i] = w * t.level.scale_y * (hx * (d2 - d0) + lx[i] * (d3 - d1));
      gw[i] = hy * (hx * d0 + lx[i] * d1) + ly[i] * (hx * d2 + lx[i] * d3);
    }
    for (int64_t q = first, i = 0; q < last; ++q) {
      T* grad_location = t.grad_locations + q * t.grad_location_stride;
      T* grad_weight = t.grad_weights + q * t.weight_stride;
      for (int64_t p = 0; p < points; ++p, ++i) {
        grad_location[2 * p] = gx[i];
        grad_location[2 * p + 1] = gy[i];
        grad_weight[p * t.weight_point_stride] = gw[i];
      }
    }
  }
}

template <class T>
SQR_INLINE void copy_rows_kernel(const T* source, int64_t source_stride, T* target, int64_t target_stride,
                                 int64_t rows, int64_t columns, int64_t target_columns) {
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t r = 0; r < rows; ++r, source += source_stride, target += target_stride) {
    __builtin_prefetch(source + 16 * source_stride);
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) store(target + c, load(source + c));
    for (; c < columns; ++c) target[c] = source[c];
    for (; c < target_columns; ++c) target[c] = 0;
  }
}

void forward_f32(const ForwardTask<float>& t) { forward_kernel(t); }
void forward_f64(const ForwardTask<double>& t) { forward_kernel(t); }
void backward_f32(const BackwardTask<float>& t) { backward_kernel(t); }
void backward_f64(const BackwardTask<double>& t) { backward_kernel(t); }
void copy_f32(const float* s, int64_t ss, float* t, int64_t ts, int64_t r, int64_t c, int64_t tc) {
  copy_rows_kernel(s, ss, t, ts, r, c, tc);
}
void copy_f64(const double* s, int64_t ss, double* t, int64_t ts, int64_t r, int64_t c, int64_t tc) {
  copy_rows_kernel(s, ss, t, ts, r, c, tc);
}
constexpr Kernels kTable = {{forward_f32, backward_f32, copy_f32}, {forward_f64, backward_f64, copy_f64}};
