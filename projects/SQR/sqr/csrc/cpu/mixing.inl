// Adaptive mixing's kernels, included after kernels.inl for each instruction set: small matrix products, and the
// normalisation with ReLU between them. An item is one feature group of one query; what it works on stays in the cache.

// Sizes of a register tile of a product: 24 of the 32 AVX-512 registers hold sums, 12 of the 16 narrower ones.
constexpr int kTileRows = 6;
constexpr int kTileVectors = SQR_VECTOR_BYTES == 64 ? 4 : 2;

// A matrix whose element (i, j) is at p[i * row + j * column].
template <class T>
struct Strided {
  const T* p;
  int64_t row, column;
};

// `kRows` rows of `kVectors` vectors of columns of a (.., depth) times b (depth, ..), whose rows are `b_row` apart.
template <class T, int kRows, int kVectors>
SQR_INLINE void product_tile(Strided<T> a, const T* b, int64_t b_row, T* out, int64_t out_row, int64_t depth) {
  using Vector = typename Simd<T>::Vector;
  constexpr int kLanes = Simd<T>::kLanes;
  Vector sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * b_row + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T left = a.p[r * a.row + k * a.column];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(out + r * out_row + v * kLanes, sum[r][v]);
  }
}

template <class T, int kVectors>
SQR_INLINE void product_columns(Strided<T> a, const T* b, int64_t b_row, T* out, int64_t out_row, int64_t rows,
                                int64_t depth) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows, a.p += kTileRows * a.row, out += kTileRows * out_row) {
    product_tile<T, kTileRows, kVectors>(a, b, b_row, out, out_row, depth);
  }
  for (; r + 2 <= rows; r += 2, a.p += 2 * a.row, out += 2 * out_row) {
    product_tile<T, 2, kVectors>(a, b, b_row, out, out_row, depth);
  }
  if (r < rows) product_tile<T, 1, kVectors>(a, b, b_row, out, out_row, depth);
}

// out (rows, columns) = a (rows, depth) b (depth, columns); b and out are contiguous, a may be a transpose.
template <class T>
SQR_INLINE void product(Strided<T> a, const T* b, T* out, int64_t rows, int64_t depth, int64_t columns) {
  constexpr int kLanes = Simd<T>::kLanes;
  int64_t c = 0;
  for (; c + kTileVectors * kLanes <= columns; c += kTileVectors * kLanes) {
    product_columns<T, kTileVectors>(a, b + c, columns, out + c, columns, rows, depth);
  }
  for (; c + kLanes <= columns; c += kLanes) product_columns<T, 1>(a, b + c, columns, out + c, columns, rows, depth);
  for (; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      T sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += a.p[r * a.row + k * a.column] * b[k * columns + c];
      out[r * columns + c] = sum;
    }
  }
}

template <class T>
SQR_INLINE void transpose(const T* source, T* target, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
      const int64_t r1 = std::min(r0 + kBlock, rows), c1 = std::min(c0 + kBlock, columns);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) target[c * rows + r] = source[r * columns + c];
      }
    }
  }
}

// The sum of f(vector of x at i, ...) over n elements; tails go through vectors that are filled up with zeros.
template <class T, class F>
SQR_INLINE T sum_over(int64_t n, const F& f) {
  using Vector = typename Simd<T>::Vector;
  constexpr int kLanes = Simd<T>::kLanes;
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] += f(i + v * kLanes, kLanes);
  }
  for (; i < n; i += kLanes) sums[0] += f(i, std::min<int64_t>(kLanes, n - i));
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  T sum = 0;
  for (int v = 0; v < kLanes; ++v) sum += all[v];
  return sum;
}

template <class T>
SQR_INLINE typename Simd<T>::Vector load_some(const T* p, int64_t lanes, T fill) {
  if (lanes == Simd<T>::kLanes) return load(p);
  typename Simd<T>::Vector v;
  for (int64_t i = 0; i < Simd<T>::kLanes; ++i) v[i] = i < lanes ? p[i] : fill;
  return v;
}

template <class T>
SQR_INLINE void store_some(T* p, typename Simd<T>::Vector v, int64_t lanes) {
  if (lanes == Simd<T>::kLanes) return store(p, v);
  for (int64_t i = 0; i < lanes; ++i) p[i] = v[i];
}

// x in place to zero mean and unit variance over its n elements; returns the factor.
template <class T>
SQR_INLINE T normalise(T* x, int64_t n, T epsilon) {
  using Vector = typename Simd<T>::Vector;
  constexpr int kLanes = Simd<T>::kLanes;
  const T mean = sum_over<T>(n, [&](int64_t i, int64_t lanes) { return load_some(x + i, lanes, T(0)); }) / n;
  const T square = sum_over<T>(n, [&](int64_t i, int64_t lanes) {
    const Vector d = load_some(x + i, lanes, mean) - mean;
    return d * d;
  });
  const T factor = T(1) / std::sqrt(square / n + epsilon);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, n - i);
    store_some(x + i, (load_some(x + i, lanes, T(0)) - mean) * factor, lanes);
  }
  return factor;
}

// A number that is not one stays one, as in PyTorch.
template <class T>
SQR_INLINE void relu(const T* x, T* out, int64_t n) {
  using Vector = typename Simd<T>::Vector;
  constexpr int kLanes = Simd<T>::kLanes;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, n - i);
    const Vector v = load_some(x + i, lanes, T(0));
    store_some(out + i, v <= T(0) ? Vector{} : v, lanes);
  }
}

// The gradient of relu(normalise(x)) for x, given the normalised x and its factor; out may be grad.
template <class T>
SQR_INLINE void normalise_relu_backward(const T* grad, const T* normalised, T factor, T* out, int64_t n) {
  using Vector = typename Simd<T>::Vector;
  constexpr int kLanes = Simd<T>::kLanes;
  auto passed = [&](int64_t i, int64_t lanes, Vector x) {
    return x <= T(0) ? Vector{} : load_some(grad + i, lanes, T(0));
  };
  const T mean = sum_over<T>(n, [&](int64_t i, int64_t lanes) {
    return passed(i, lanes, load_some(normalised + i, lanes, T(0)));
  }) / n;
  const T slope = sum_over<T>(n, [&](int64_t i, int64_t lanes) {
    const Vector x = load_some(normalised + i, lanes, T(0));
    return passed(i, lanes, x) * x;
  }) / n;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, n - i);
    const Vector x = load_some(normalised + i, lanes, T(0));
    store_some(out + i, (passed(i, lanes, x) - mean - x * slope) * factor, lanes);
  }
}

template <class T>
SQR_INLINE void mix_forward_kernel(const MixTask<T>& t) {
  const int64_t p = t.in_points, o = t.out_points, d = t.channels;
  T* first = t.scratch;
  for (int64_t i = t.begin; i < t.end; ++i) {
    product<T>({t.sampled + i * p * d, d, 1}, t.channel + i * d * d, first, p, d, d);
    normalise(first, p * d, t.epsilon);
    relu(first, first, p * d);
    T* out = t.out + i * o * d;
    product<T>({t.spatial + i * o * p, p, 1}, first, out, o, p, d);
    normalise(out, o * d, t.epsilon);
    relu(out, out, o * d);
  }
}

// Works the forward pass out again, and then back through it.
template <class T>
SQR_INLINE void mix_backward_kernel(const MixTask<T>& t) {
  const int64_t p = t.in_points, o = t.out_points, d = t.channels;
  T* first = t.scratch;
  T* active = first + p * d;
  T* grad_first = active + p * d;
  T* second = grad_first + p * d;
  T* turned = second + o * d;
  for (int64_t i = t.begin; i < t.end; ++i) {
    const T* sampled = t.sampled + i * p * d;
    const T* channel = t.channel + i * d * d;
    const T* spatial = t.spatial + i * o * p;
    product<T>({sampled, d, 1}, channel, first, p, d, d);
    const T first_factor = normalise(first, p * d, t.epsilon);
    relu(first, active, p * d);
    product<T>({spatial, p, 1}, active, second, o, p, d);
    const T second_factor = normalise(second, o * d, t.epsilon);
    normalise_relu_backward(t.grad_out + i * o * d, second, second_factor, second, o * d);
    transpose(active, turned, p, d);
    product<T>({second, d, 1}, turned, t.grad_spatial + i * o * p, o, d, p);
    product<T>({spatial, 1, p}, second, grad_first, p, o, d);
    normalise_relu_backward(grad_first, first, first_factor, grad_first, p * d);
    transpose(channel, turned, d, d);
    product<T>({grad_first, d, 1}, turned, t.grad_sampled + i * p * d, p, d, d);
    product<T>({sampled, 1, d}, grad_first, t.grad_channel + i * d * d, d, p, d);
  }
}
