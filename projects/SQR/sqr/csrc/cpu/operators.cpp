// The CPU operators: cuts a call into tasks whose outputs do not overlap and runs the vectorised kernels on them.
//
// No task adds to what another one writes, and what a task computes does not depend on how many there are, so results
// are the same bits for any number of threads.
#include "../problem.h"
#include "kernels.h"
#include "tasks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

namespace sqr::cpu {
namespace {

using Grads = std::tuple<Tensor, Tensor, Tensor>;

template <class T>
std::vector<Level<T>> levels_of(const Problem& p) {
  std::vector<Level<T>> levels;
  for (int64_t l = 0; l < p.num_levels(); ++l) {
    const Shape& s = p.levels[l];
    levels.push_back({s.start, static_cast<int32_t>(s.width), static_cast<int32_t>(s.height),
                      static_cast<T>(p.scale_x[l]), static_cast<T>(p.scale_y[l])});
  }
  return levels;
}

// A head's pixels are gathered into rows of their own when the taps read clearly more rows than there are pixels, or
// when rows need padding to whole vectors.
bool gathers_rows(const Problem& p, double taps_a_pixel) {
  const double taps = static_cast<double>(p.queries) * p.points * p.num_levels();
  return p.channels % kRowMultiple != 0 || taps > taps_a_pixel * static_cast<double>(p.tokens);
}

template <class T>
Tensor forward(const Problem& p, const Tensor& value_in, const Tensor& locations_in, const Tensor& weights_in) {
  const Tensor value = torch::stable::contiguous(value_in), locations = torch::stable::contiguous(locations_in),
               weights = torch::stable::contiguous(weights_in);
  Tensor out = torch::stable::new_empty(value, p.out_sizes());
  if (p.empty()) return out;
  const KernelTable<T>& kernel = kernels<T>();
  const std::vector<Level<T>> levels = levels_of<T>(p);
  const int64_t d = p.channels, row = (d + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  const int64_t rows = p.keep_points ? p.points : 1, taps = p.points * p.num_levels();
  const bool gather = gathers_rows(p, p.keep_points ? 4.0 : 1.0), padded = row != d;

  // Enough tasks for every thread to have a few, none so small that its set-up shows.
  const int64_t wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t cuts = std::max<int64_t>(1, std::min((wanted + p.heads - 1) / p.heads, p.queries * taps / 4096));
  const int64_t chunk = (p.queries + cuts - 1) / cuts, chunks = (p.queries + chunk - 1) / chunk;
  const int64_t tasks = p.heads * chunks, scratch_bytes = forward_scratch_bytes(taps, sizeof(T));

  const Buffer<T> gathered(gather ? p.heads * p.tokens * row : 0), zeros(row);
  const Buffer<T> padded_out(padded ? p.queries * p.heads * rows * row : 0);
  const Buffer<char> scratch(workers_for(tasks) * scratch_bytes);
  std::fill_n(zeros.get(), row, T(0));

  const int64_t location_stride = p.heads * (p.keep_points ? p.points : taps) * 2, out_image = p.queries * p.heads * rows;
  for (int64_t b = 0; b < p.batch; ++b) {
    const T* image = value.const_data_ptr<T>() + b * p.tokens * p.heads * d;
    T* out_rows = out.mutable_data_ptr<T>() + b * out_image * d;
    if (gather) {
      constexpr int64_t kBlock = 2048;
      const int64_t blocks = (p.tokens + kBlock - 1) / kBlock;
      run_tasks(p.heads * blocks, [&](int64_t task, int64_t) {
        const int64_t h = task % p.heads, first = task / p.heads * kBlock;
        kernel.copy_rows(image + (first * p.heads + h) * d, p.heads * d, gathered.get() + (h * p.tokens + first) * row,
                         row, std::min(kBlock, p.tokens - first), d, row);
      });
    }
    run_tasks(tasks, [&](int64_t task, int64_t worker) {
      const int64_t h = task / chunks, begin = task % chunks * chunk;
      ForwardTask<T> t;
      t.value = gather ? gathered.get() + h * p.tokens * row : image + h * d;
      t.row_stride = gather ? row : p.heads * d;
      t.row = row;
      t.zeros = zeros.get();
      t.locations = locations.const_data_ptr<T>() + b * p.queries * location_stride + h * location_stride / p.heads;
      t.weights = weights.const_data_ptr<T>() + (b * p.queries * p.heads + h) * taps;
      t.out = (padded ? padded_out.get() : out_rows) + h * rows * row;
      t.location_stride = location_stride;
      t.weight_stride = p.heads * taps;
      t.out_stride = p.heads * rows * row;
      t.begin = begin;
      t.end = std::min(begin + chunk, p.queries);
      t.levels = levels.data();
      t.num_levels = static_cast<int32_t>(p.num_levels());
      t.points = static_cast<int32_t>(p.points);
      t.keep_points = p.keep_points;
      t.prefetch_value = p.keep_points || !gather;
      t.scratch = scratch.get() + worker * scratch_bytes;
      kernel.forward(t);
    });
    if (padded) kernel.copy_rows(padded_out.get(), row, out_rows, d, out_image, d, d);
  }
  return out;
}

template <class T>
Grads backward(const Problem& p, const Tensor& grad_in, const Tensor& value_in, const Tensor& locations_in,
               const Tensor& weights_in) {
  const Tensor grad_out = torch::stable::contiguous(grad_in), value = torch::stable::contiguous(value_in),
               locations = torch::stable::contiguous(locations_in), weights = torch::stable::contiguous(weights_in);
  const int64_t d = p.channels, row = (d + kRowMultiple - 1) / kRowMultiple * kRowMultiple, n = p.num_levels();
  const bool gather = gathers_rows(p, p.keep_points ? 4.0 : 0.5), padded = row != d;
  if (p.empty()) {
    return {torch::stable::new_zeros(value, value.sizes()), torch::stable::new_zeros(locations, locations.sizes()),
            torch::stable::new_zeros(weights, weights.sizes())};
  }
  // Gathered levels are written whole; otherwise gradients are added where the pixels are.
  Tensor grad_value = gather ? torch::stable::new_empty(value, value.sizes())
                             : torch::stable::new_zeros(value, value.sizes());
  Tensor grad_locations = torch::stable::new_empty(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  const KernelTable<T>& kernel = kernels<T>();
  const std::vector<Level<T>> levels = levels_of<T>(p);

  // A task is one head of one image, or one level of it: where there are too few heads to keep all threads busy, and
  // in adaptive sampling, whose levels share little and are too large to stay in the cache together.
  const int64_t heads = p.batch * p.heads, threads = torch::stable::get_num_threads();
  const int64_t levels_a_task = !p.keep_points && heads >= 4 * threads ? n : 1;
  const int64_t tasks = heads * n / levels_a_task, workers = workers_for(tasks);
  const int64_t rows = p.keep_points ? p.points : 1, out_total = p.out_rows();
  int64_t largest = 0;
  for (const Shape& s : p.levels) largest = std::max(largest, s.height * s.width);
  const int64_t slab = gather ? (levels_a_task == 1 ? largest : p.tokens) * row : 0;
  const int64_t scratch_bytes = backward_scratch_bytes(p.points, sizeof(T));

  const Buffer<T> padded_grad(padded ? out_total * row : 0), slabs(workers * 2 * slab), zeros(row), sinks(workers * row);
  const Buffer<char> scratch(workers * scratch_bytes);
  // A point's gradient is a sum over levels, each the work of another task: kept apart, added in order below.
  const int64_t location_size = locations.numel();
  const Buffer<T> level_grads(p.keep_points ? n * location_size : 0);
  std::fill_n(zeros.get(), row, T(0));
  if (padded) kernel.copy_rows(grad_out.const_data_ptr<T>(), d, padded_grad.get(), row, out_total, d, row);

  const T* grad_rows = padded ? padded_grad.get() : grad_out.const_data_ptr<T>();
  const int64_t location_row = (p.keep_points ? 1 : n) * p.points * 2;  // numbers of one query and head
  auto level_task = [&](int64_t b, int64_t h, int64_t l, int64_t worker) {
    const int64_t first_row = b * p.queries * p.heads + h;
    const int64_t value_offset = ((b * p.tokens + p.levels[l].start) * p.heads + h) * d;
    const int64_t location_offset = first_row * location_row + (p.keep_points ? 0 : l * p.points * 2);
    const int64_t weight_offset = first_row * p.points * n + (p.keep_points ? l : l * p.points);
    BackwardTask<T> t;
    t.value = value.const_data_ptr<T>() + value_offset;
    t.grad_value = grad_value.mutable_data_ptr<T>() + value_offset;
    t.row_stride = p.heads * d;
    t.row = row;
    t.zeros = zeros.get();
    t.sink = sinks.get() + worker * row;
    t.grad_out = grad_rows + first_row * rows * row;
    t.out_stride = p.heads * rows * row;
    t.out_point_stride = p.keep_points ? row : 0;
    t.locations = locations.const_data_ptr<T>() + location_offset;
    t.weights = weights.const_data_ptr<T>() + weight_offset;
    t.location_stride = t.grad_location_stride = p.heads * location_row;
    t.weight_stride = p.heads * p.points * n;
    t.weight_point_stride = p.keep_points ? n : 1;
    t.grad_locations =
        (p.keep_points ? level_grads.get() + l * location_size : grad_locations.mutable_data_ptr<T>()) + location_offset;
    t.grad_weights = grad_weights.mutable_data_ptr<T>() + weight_offset;
    t.points = static_cast<int32_t>(p.points);
    t.level = levels[l];
    t.level.start = 0;
    t.scratch = scratch.get() + worker * scratch_bytes;
    return t;
  };
  // Queries are cut so that what the levels share of a piece, locations and output gradients, stays in the cache.
  const int64_t piece = std::max<int64_t>(1, 1024 / p.points);
  run_tasks(tasks, [&](int64_t task, int64_t worker) {
    const int64_t head = task * levels_a_task / n, b = head / p.heads, h = head % p.heads;
    const int64_t first = task * levels_a_task % n, last = first + levels_a_task;
    std::vector<BackwardTask<T>> parts;
    for (int64_t l = first; l < last; ++l) parts.push_back(level_task(b, h, l, worker));
    // The levels of a task follow each other in memory: one copy in, one out.
    const int64_t pixels = (last < n ? p.levels[last].start : p.tokens) - p.levels[first].start;
    const T* pixels_in = parts[0].value;
    T* pixels_out = parts[0].grad_value;
    T* copy = slabs.get() + worker * 2 * slab;
    if (gather) {
      kernel.copy_rows(pixels_in, p.heads * d, copy, row, pixels, d, row);
      std::fill_n(copy + slab, pixels * row, T(0));
      for (int64_t l = first; l < last; ++l) {
        const int64_t offset = (p.levels[l].start - p.levels[first].start) * row;
        parts[l - first].value = copy + offset;
        parts[l - first].grad_value = copy + slab + offset;
        parts[l - first].row_stride = row;
      }
    }
    for (int64_t begin = 0; begin < p.queries; begin += piece) {
      for (BackwardTask<T>& part : parts) {
        part.begin = begin;
        part.end = std::min(begin + piece, p.queries);
        kernel.backward(part);
      }
    }
    if (gather) kernel.copy_rows(copy + slab, row, pixels_out, p.heads * d, pixels, d, d);
  });

  if (p.keep_points) {
    T* sum = grad_locations.mutable_data_ptr<T>();
    constexpr int64_t kBlock = 16384;
    run_tasks((location_size + kBlock - 1) / kBlock, [&](int64_t task, int64_t) {
      const int64_t begin = task * kBlock, end = std::min(begin + kBlock, location_size);
      std::copy(level_grads.get() + begin, level_grads.get() + end, sum + begin);
      for (int64_t l = 1; l < n; ++l) {
        const T* part = level_grads.get() + l * location_size;
        for (int64_t i = begin; i < end; ++i) sum[i] += part[i];
      }
    });
  }
  return {grad_value, grad_locations, grad_weights};
}

void check_float_or_double(const Tensor& value) {
  STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float || value.scalar_type() == ScalarType::Double,
                  "on the CPU value must be float32 or float64, but is ", toString(value.scalar_type()));
}

Tensor run_forward(const Problem& p, const Tensor& value, const Tensor& locations, const Tensor& weights) {
  check_float_or_double(value);
  const bool is_double = value.scalar_type() == ScalarType::Double;
  return is_double ? forward<double>(p, value, locations, weights) : forward<float>(p, value, locations, weights);
}

Grads run_backward(const Problem& p, const Tensor& grad, const Tensor& value, const Tensor& locations,
                   const Tensor& weights) {
  check_float_or_double(value);
  check_grad(p, value, grad);
  const bool is_double = value.scalar_type() == ScalarType::Double;
  return is_double ? backward<double>(p, grad, value, locations, weights)
                   : backward<float>(p, grad, value, locations, weights);
}

Tensor ms_deform_attn(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations,
                      const Tensor& weights) {
  return run_forward(deformable_problem(value, shapes, locations, weights), value, locations, weights);
}

Grads ms_deform_attn_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                              const Tensor& locations, const Tensor& weights) {
  return run_backward(deformable_problem(value, shapes, locations, weights), grad, value, locations, weights);
}

Tensor adaptive_sample(const Tensor& value, std::vector<int64_t> shapes, std::vector<double> strides,
                       const Tensor& points, const Tensor& weights) {
  return run_forward(adaptive_problem(value, shapes, strides, points, weights), value, points, weights);
}

Grads adaptive_sample_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                               std::vector<double> strides, const Tensor& points, const Tensor& weights) {
  return run_backward(adaptive_problem(value, shapes, strides, points, weights), grad, value, points, weights);
}

}  // namespace
}  // namespace sqr::cpu

STABLE_TORCH_LIBRARY_IMPL(sqr, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&sqr::cpu::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&sqr::cpu::ms_deform_attn_backward));
  m.impl("adaptive_sample", TORCH_BOX(&sqr::cpu::adaptive_sample));
  m.impl("adaptive_sample_backward", TORCH_BOX(&sqr::cpu::adaptive_sample_backward));
}

// For `python -m sqr.ops` and the tests, through ctypes.
extern "C" __attribute__((visibility("default"))) const char* sqr_instruction_set() {
  return sqr::cpu::instruction_set();
}
extern "C" __attribute__((visibility("default"))) int sqr_set_instruction_set(const char* name) {
  try {
    sqr::cpu::set_instruction_set(name);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
