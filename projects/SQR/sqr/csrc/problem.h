// The sizes of one call, read off its tensors and checked. Every back end starts here, so that no kernel ever sees
// shapes that do not fit together.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace sqr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Shape {
  int64_t height, width;
  int64_t start;  // rows before this level
};

// Both operators in one set of sizes. Deformable attention's heads are adaptive sampling's groups.
struct Problem {
  int64_t batch, tokens, heads, channels, queries, points;
  std::vector<Shape> levels;
  std::vector<double> scale_x, scale_y;  // pixel position = location * scale - 0.5
  bool keep_points;

  int64_t num_levels() const { return static_cast<int64_t>(levels.size()); }
  int64_t out_rows() const { return batch * queries * heads * (keep_points ? points : 1); }
  std::vector<int64_t> out_sizes() const {
    if (keep_points) return {batch, queries, heads, points, channels};
    return {batch, queries, heads * channels};
  }
  bool empty() const { return out_rows() == 0 || channels == 0; }
};

inline std::string describe(const Tensor& t) {
  std::string s = "(";
  for (int64_t d = 0; d < t.dim(); ++d) s += (d ? ", " : "") + std::to_string(t.size(d));
  return s + ")";
}

inline ScalarType accumulation_type(ScalarType value) {
  return value == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_same_device(const Tensor& value, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(other.device() == value.device(), name, " is not on the device of value");
}

inline void check_dtype(const Tensor& value, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(other.scalar_type() == accumulation_type(value.scalar_type()), name, " must be ",
                  toString(accumulation_type(value.scalar_type())), " where value is ",
                  toString(value.scalar_type()), ", but is ", toString(other.scalar_type()));
}

inline std::vector<Shape> check_levels(const Tensor& value, const std::vector<int64_t>& shapes) {
  STD_TORCH_CHECK(value.dim() == 4, "value must be (batch, tokens, heads, channels), but is ", describe(value));
  STD_TORCH_CHECK(!shapes.empty() && shapes.size() % 2 == 0,
                  "spatial_shapes must hold height and width of at least one level, but has ", shapes.size(),
                  " numbers");
  std::vector<Shape> levels;
  int64_t start = 0;
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  for (size_t i = 0; i < shapes.size(); i += 2) {
    const int64_t h = shapes[i], w = shapes[i + 1];
    STD_TORCH_CHECK(h > 0 && w > 0 && h < kLimit && w < kLimit && h <= kLimit / w, "level ", i / 2,
                    " of spatial_shapes is ", h, " x ", w);
    levels.push_back({h, w, start});
    start += h * w;
  }
  STD_TORCH_CHECK(start == value.size(1), "spatial_shapes cover ", start, " tokens, but value ", describe(value),
                  " has ", value.size(1));
  STD_TORCH_CHECK(start < kLimit, "value has ", start, " tokens an image, more than 32 bits can number");
  return levels;
}

inline Problem deformable_problem(const Tensor& value, const std::vector<int64_t>& shapes, const Tensor& locations,
                                  const Tensor& weights) {
  Problem p;
  p.levels = check_levels(value, shapes);
  p.batch = value.size(0), p.tokens = value.size(1), p.heads = value.size(2), p.channels = value.size(3);
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(0) == p.batch && locations.size(2) == p.heads &&
                      locations.size(3) == p.num_levels() && locations.size(5) == 2,
                  "sampling_locations must be (", p.batch, ", queries, ", p.heads, ", ", p.num_levels(),
                  ", points, 2), but is ", describe(locations));
  p.queries = locations.size(1), p.points = locations.size(4);
  STD_TORCH_CHECK(p.points > 0, "sampling_locations has no points: ", describe(locations));
  STD_TORCH_CHECK(weights.dim() == 5 && weights.size(0) == p.batch && weights.size(1) == p.queries &&
                      weights.size(2) == p.heads && weights.size(3) == p.num_levels() && weights.size(4) == p.points,
                  "attention_weights must be the first five sizes of sampling_locations ", describe(locations),
                  ", but is ", describe(weights));
  check_same_device(value, locations, "sampling_locations");
  check_same_device(value, weights, "attention_weights");
  check_dtype(value, locations, "sampling_locations");
  check_dtype(value, weights, "attention_weights");
  for (const Shape& level : p.levels) {
    p.scale_x.push_back(static_cast<double>(level.width));
    p.scale_y.push_back(static_cast<double>(level.height));
  }
  p.keep_points = false;
  return p;
}

inline Problem adaptive_problem(const Tensor& value, const std::vector<int64_t>& shapes,
                                const std::vector<double>& strides, const Tensor& points, const Tensor& weights) {
  Problem p;
  p.levels = check_levels(value, shapes);
  p.batch = value.size(0), p.tokens = value.size(1), p.heads = value.size(2), p.channels = value.size(3);
  STD_TORCH_CHECK(strides.size() == p.levels.size(), "there are ", p.levels.size(), " levels, but ", strides.size(),
                  " strides");
  STD_TORCH_CHECK(points.dim() == 5 && points.size(0) == p.batch && points.size(2) == p.heads && points.size(4) == 2,
                  "points must be (", p.batch, ", queries, ", p.heads, ", points, 2), but is ", describe(points));
  p.queries = points.size(1), p.points = points.size(3);
  STD_TORCH_CHECK(p.points > 0, "points has no points: ", describe(points));
  STD_TORCH_CHECK(weights.dim() == 5 && weights.size(0) == p.batch && weights.size(1) == p.queries &&
                      weights.size(2) == p.heads && weights.size(3) == p.points && weights.size(4) == p.num_levels(),
                  "level_weights must be (", p.batch, ", ", p.queries, ", ", p.heads, ", ", p.points, ", ",
                  p.num_levels(), "), but is ", describe(weights));
  check_same_device(value, points, "points");
  check_same_device(value, weights, "level_weights");
  check_dtype(value, points, "points");
  check_dtype(value, weights, "level_weights");
  for (double stride : strides) {
    STD_TORCH_CHECK(std::isfinite(stride) && stride > 0, "a stride must be a positive number, but one is ", stride);
    p.scale_x.push_back(1 / stride);
    p.scale_y.push_back(1 / stride);
  }
  p.keep_points = true;
  return p;
}

inline void check_grad(const Problem& p, const Tensor& value, const Tensor& grad) {
  const std::vector<int64_t> sizes = p.out_sizes();
  bool same = grad.dim() == static_cast<int64_t>(sizes.size());
  for (size_t d = 0; same && d < sizes.size(); ++d) same = grad.size(d) == sizes[d];
  STD_TORCH_CHECK(same, "grad_output has shape ", describe(grad), ", not the output's");
  STD_TORCH_CHECK(grad.scalar_type() == value.scalar_type(), "grad_output must be ", toString(value.scalar_type()),
                  ", but is ", toString(grad.scalar_type()));
  check_same_device(value, grad, "grad_output");
}

}  // namespace sqr
