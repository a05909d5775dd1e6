// The vectorised kernels. dispatch.cpp includes this file once for each instruction set, inside of a namespace and a
// target region of its own, with SQR_VECTOR_BYTES set to the width of that set's registers.

// Unaligned vectors of the instruction set's own width, in the vector extensions of GCC and Clang.
template <class T>
struct Simd {
  static constexpr int kLanes = SQR_VECTOR_BYTES / sizeof(T);
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
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

// Two vectors as one row of pairs and back: the first or second numbers of all pairs, and the pairs' two halves.
#if SQR_HAS_SHUFFLEVECTOR
template <class V, int... I>
SQR_INLINE V pick(V a, V b, int offset, std::integer_sequence<int, I...>) {
  return offset == 0 ? __builtin_shufflevector(a, b, 2 * I...) : __builtin_shufflevector(a, b, (2 * I + 1)...);
}

template <class V, int... I>
SQR_INLINE V zip(V a, V b, int half, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return half == 0 ? __builtin_shufflevector(a, b, (I / 2 + I % 2 * n)...)
                   : __builtin_shufflevector(a, b, (n / 2 + I / 2 + I % 2 * n)...);
}
#else
template <class V, int... I>
SQR_INLINE V pick(V a, V b, int offset, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  V out;
  for (int i = 0; i < n; ++i) out[i] = 2 * i < n ? a[2 * i + offset] : b[2 * i - n + offset];
  return out;
}

template <class V, int... I>
SQR_INLINE V zip(V a, V b, int half, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  V out;
  for (int i = 0; i < n; ++i) out[i] = i % 2 ? b[half * n / 2 + i / 2] : a[half * n / 2 + i / 2];
  return out;
}
#endif

// The taps of a block as structure of arrays, carved out of one scratch buffer.
template <class T>
struct Taps {
  using Index = typename Simd<T>::Index;

  T *xy, *weight;                 // in: locations, pairs of x and y, and weights; the backward pass ends with the
                                  // gradients there
  T *scale_x, *scale_y;           // in: the tap's level
  Index *width, *height, *start;  // in: the tap's level
  T *lx, *ly;                     // out: position inside of the pixel square, [0, 1)
  T* corner_weight[4];            // out: bilinear weight times tap weight: top left, top right, bottom left, right
  Index* corner[4];               // out: row of the corner, -1 where it lies outside
  T* dots;                        // backward: (taps, 4) products of a corner's row with the output gradient

  Taps(void* scratch, int64_t capacity) {
    T* p = static_cast<T*>(scratch);
    auto carve = [&](auto*& array, int64_t columns) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(p);
      p += columns * capacity;
    };
    carve(xy, 2);
    for (T** a : {&weight, &scale_x, &scale_y, &lx, &ly}) carve(*a, 1);
    for (T*& a : corner_weight) carve(a, 1);
    for (Index** a : {&width, &height, &start}) carve(*a, 1);
    for (Index*& a : corner) carve(a, 1);
    carve(dots, 4);
    std::fill_n(static_cast<T*>(scratch), 3 * capacity, T(0));  // what stays unused of a last vector is defined
  }

  SQR_INLINE void set_level(int64_t i, const Level<T>& level) const {
    scale_x[i] = level.scale_x;
    scale_y[i] = level.scale_y;
    width[i] = level.width;
    height[i] = level.height;
    start[i] = static_cast<Index>(level.start);
  }
};

// Locations to corners and weights. A position outside of (-1, width) x (-1, height), or one that is not a number,
// is taken for -2: it has no corner inside, and the conversion to an integer stays defined.
template <class T>
SQR_INLINE void locate(const Taps<T>& taps, int64_t n) {
  constexpr int kLanes = Simd<T>::kLanes;
  using Index = typename Simd<T>::Index;
  using Real = typename Simd<T>::Vector;
  using Whole = typename Simd<Index>::Vector;
  constexpr auto sequence = std::make_integer_sequence<int, kLanes>();
  const Whole none = Whole{} - 1;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Real first = load(taps.xy + 2 * i), second = load(taps.xy + 2 * i + kLanes);
    const Whole w = load(taps.width + i), h = load(taps.height + i);
    Real x = pick(first, second, 0, sequence) * load(taps.scale_x + i) - T(0.5);
    Real y = pick(first, second, 1, sequence) * load(taps.scale_y + i) - T(0.5);
    const Whole inside = (x > T(-1)) & (x < __builtin_convertvector(w, Real)) & (y > T(-1)) &
                         (y < __builtin_convertvector(h, Real));
    const Real outside = Real{} - T(2);
    x = inside ? x : outside;
    y = inside ? y : outside;
    Whole x0 = __builtin_convertvector(x, Whole), y0 = __builtin_convertvector(y, Whole);
    x0 += __builtin_convertvector(x0, Real) > x;  // from truncation to floor: a mask is -1
    y0 += __builtin_convertvector(y0, Real) > y;
    const Real lx = x - __builtin_convertvector(x0, Real), ly = y - __builtin_convertvector(y0, Real);
    store(taps.lx + i, lx);
    store(taps.ly + i, ly);
    const Real bottom_weight = load(taps.weight + i) * ly, top_weight = load(taps.weight + i) - bottom_weight;
    store(taps.corner_weight[0] + i, top_weight - top_weight * lx);
    store(taps.corner_weight[1] + i, top_weight * lx);
    store(taps.corner_weight[2] + i, bottom_weight - bottom_weight * lx);
    store(taps.corner_weight[3] + i, bottom_weight * lx);
    const Whole left = x0 >= 0, right = (x0 >= -1) & (x0 + 1 < w), top = y0 >= 0, bottom = (y0 >= -1) & (y0 + 1 < h);
    const Whole row = load(taps.start + i) + y0 * w + x0;
    store(taps.corner[0] + i, top & left ? row : none);
    store(taps.corner[1] + i, top & right ? row + 1 : none);
    store(taps.corner[2] + i, bottom & left ? row + w : none);
    store(taps.corner[3] + i, bottom & right ? row + w + 1 : none);
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
  const Taps<T> buffers[2] = {{t.scratch, capacity}, {static_cast<char*>(t.scratch) + half, capacity}};
  for (const Taps<T>& taps : buffers) {
    for (int64_t i = 0; i < capacity; ++i) {
      const int64_t used = std::min(i, count - 1);
      taps.set_level(i, t.levels[t.keep_points ? used % t.num_levels : used / t.points]);
    }
  }
  auto find = [&](int64_t q) __attribute__((always_inline)) {
    const Taps<T>& taps = buffers[q & 1];
    const T* location = t.locations + q * t.location_stride;
    std::copy_n(t.weights + q * t.weight_stride, count, taps.weight);
    if (t.keep_points) {
      T* xy = taps.xy;
      for (int64_t p = 0; p < t.points; ++p) {
        for (int64_t l = 0; l < t.num_levels; ++l, xy += 2) std::copy_n(location + 2 * p, 2, xy);
      }
    } else {
      std::copy_n(location, 2 * count, taps.xy);
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

// From the dot products of the block's taps to the gradients of locations and weights, left where those came from.
template <class T>
SQR_INLINE void finish_gradients(const Taps<T>& taps, const Level<T>& level, int64_t n) {
  constexpr int kLanes = Simd<T>::kLanes;
  using Real = typename Simd<T>::Vector;
  constexpr auto sequence = std::make_integer_sequence<int, kLanes>();
  for (int64_t i = 0; i < n; i += kLanes) {
    const T* dots = taps.dots + 4 * i;
    const Real a = load(dots), b = load(dots + kLanes), c = load(dots + 2 * kLanes), d = load(dots + 3 * kLanes);
    const Real even_ab = pick(a, b, 0, sequence), even_cd = pick(c, d, 0, sequence);
    const Real odd_ab = pick(a, b, 1, sequence), odd_cd = pick(c, d, 1, sequence);
    const Real d0 = pick(even_ab, even_cd, 0, sequence), d1 = pick(odd_ab, odd_cd, 0, sequence);
    const Real d2 = pick(even_ab, even_cd, 1, sequence), d3 = pick(odd_ab, odd_cd, 1, sequence);
    const Real lx = load(taps.lx + i), ly = load(taps.ly + i), hx = T(1) - lx, hy = T(1) - ly;
    const Real w = load(taps.weight + i);
    const Real gx = w * level.scale_x * (hy * (d1 - d0) + ly * (d3 - d2));
    const Real gy = w * level.scale_y * (hx * (d2 - d0) + lx * (d3 - d1));
    store(taps.weight + i, hy * (hx * d0 + lx * d1) + ly * (hx * d2 + lx * d3));
    store(taps.xy + 2 * i, zip(gx, gy, 0, sequence));
    store(taps.xy + 2 * i + kLanes, zip(gx, gy, 1, sequence));
  }
}

// Copies a query's numbers of one level; the usual four points in as many instructions as registers.
template <class T>
SQR_INLINE void copy_numbers(const T* source, int64_t source_stride, T* target, int64_t target_stride, int64_t n) {
  if (source_stride == 1 && target_stride == 1 && n % 4 == 0) {
    for (int64_t i = 0; i < n; i += 4) std::memcpy(target + i, source + i, 4 * sizeof(T));
  } else {
    for (int64_t i = 0; i < n; ++i) target[i * target_stride] = source[i * source_stride];
  }
}

template <class T>
SQR_INLINE void backward_kernel(const BackwardTask<T>& t) {
  const int64_t points = t.points, block = std::max<int64_t>(1, kTapBlock / points);
  const int64_t capacity = round_up(block * points, 16);
  const Taps<T> taps(t.scratch, capacity);
  for (int64_t i = 0; i < capacity; ++i) taps.set_level(i, t.level);
  for (int64_t first = t.begin; first < t.end; first += block) {
    const int64_t last = std::min(first + block, t.end), n = (last - first) * points;
    for (int64_t q = last; q < std::min(last + block, t.end); ++q) {
      prefetch(t.locations + q * t.location_stride, 2 * points);
      prefetch(t.weights + q * t.weight_stride, points * t.weight_point_stride);
      if (t.out_point_stride == 0) prefetch(t.grad_out + q * t.out_stride, t.row);
    }
    for (int64_t q = first; q < last; ++q) {
      const int64_t i = (q - first) * points;
      copy_numbers(t.locations + q * t.location_stride, 1, taps.xy + 2 * i, 1, 2 * points);
      copy_numbers(t.weights + q * t.weight_stride, t.weight_point_stride, taps.weight + i, 1, points);
    }
    locate(taps, n);
    std::fill_n(taps.dots, 4 * n, T(0));
    int64_t column = 0;
    for (; column + 64 <= t.row; column += 64) scatter_taps<T, 64>(t, taps, first, n, column);
    for (; column + 32 <= t.row; column += 32) scatter_taps<T, 32>(t, taps, first, n, column);
    for (; column < t.row; column += 16) scatter_taps<T, 16>(t, taps, first, n, column);
    finish_gradients(taps, t.level, n);
    for (int64_t q = first; q < last; ++q) {
      const int64_t i = (q - first) * points;
      copy_numbers(taps.xy + 2 * i, 1, t.grad_locations + q * t.grad_location_stride, 1, 2 * points);
      copy_numbers(taps.weight + i, 1, t.grad_weights + q * t.weight_stride, t.weight_point_stride, points);
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
