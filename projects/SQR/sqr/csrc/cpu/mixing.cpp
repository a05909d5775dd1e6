// The CPU operator of AdaMixer's adaptive mixing. Items (one feature group of one query) are independent of each other,
// so results are the same bits for any number of threads.
#include "../problem.h"
#include "kernels.h"
#include "tasks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

namespace sqr::cpu {
namespace {

constexpr int64_t kItemsATask = 16;

void check_operand(const Tensor& sampled, const Tensor& t, const char* name, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(t.scalar_type() == sampled.scalar_type(), name, " must be ", toString(sampled.scalar_type()),
                  " as sampled is, but is ", toString(t.scalar_type()));
  STD_TORCH_CHECK(t.dim() == 3 && t.size(0) == sampled.size(0) && t.size(1) == rows && t.size(2) == columns, name,
                  " must be (", sampled.size(0), ", ", rows, ", ", columns, ") for sampled ", describe(sampled),
                  ", but is ", describe(t));
}

void check(const Tensor& sampled, const Tensor& channel, const Tensor& spatial) {
  const bool known = sampled.scalar_type() == ScalarType::Float || sampled.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(known, "sampled must be float32 or float64, but is ", toString(sampled.scalar_type()));
  STD_TORCH_CHECK(sampled.dim() == 3, "sampled must be (items, points, channels), but is ", describe(sampled));
  STD_TORCH_CHECK(spatial.dim() == 3, "spatial must be (items, out points, points), but is ", describe(spatial));
  check_operand(sampled, channel, "channel", sampled.size(2), sampled.size(2));
  check_operand(sampled, spatial, "spatial", spatial.size(1), sampled.size(1));
}

template <class T>
MixTask<T> task_of(const Tensor& sampled, const Tensor& channel, const Tensor& spatial, double epsilon) {
  MixTask<T> t{};
  t.sampled = sampled.const_data_ptr<T>();
  t.channel = channel.const_data_ptr<T>();
  t.spatial = spatial.const_data_ptr<T>();
  t.in_points = sampled.size(1);
  t.out_points = spatial.size(1);
  t.channels = sampled.size(2);
  t.epsilon = static_cast<T>(epsilon);
  return t;
}

template <class T>
void run(const MixTask<T>& whole, int64_t items, void (*kernel)(const MixTask<T>&)) {
  const int64_t tasks = (items + kItemsATask - 1) / kItemsATask;
  const int64_t scratch_size = mix_scratch_elements(whole.in_points, whole.out_points, whole.channels);
  const Buffer<T> scratch(workers_for(tasks) * scratch_size);
  run_tasks(tasks, [&](int64_t task, int64_t worker) {
    MixTask<T> part = whole;
    part.begin = task * kItemsATask;
    part.end = std::min(part.begin + kItemsATask, items);
    part.scratch = scratch.get() + worker * scratch_size;
    kernel(part);
  });
}

template <class T>
Tensor forward(const Tensor& sampled_in, const Tensor& channel_in, const Tensor& spatial_in, double epsilon) {
  const Tensor sampled = torch::stable::contiguous(sampled_in), channel = torch::stable::contiguous(channel_in),
               spatial = torch::stable::contiguous(spatial_in);
  Tensor out = torch::stable::new_empty(sampled, {sampled.size(0), spatial.size(1), sampled.size(2)});
  if (out.numel() == 0) return out;
  MixTask<T> task = task_of<T>(sampled, channel, spatial, epsilon);
  task.out = out.mutable_data_ptr<T>();
  run(task, sampled.size(0), kernels<T>().mix_forward);
  return out;
}

using Grads = std::tuple<Tensor, Tensor, Tensor>;

template <class T>
Grads backward(const Tensor& grad_in, const Tensor& sampled_in, const Tensor& channel_in, const Tensor& spatial_in,
               double epsilon) {
  const Tensor grad = torch::stable::contiguous(grad_in), sampled = torch::stable::contiguous(sampled_in),
               channel = torch::stable::contiguous(channel_in), spatial = torch::stable::contiguous(spatial_in);
  if (grad.numel() == 0) {
    return {torch::stable::new_zeros(sampled, sampled.sizes()), torch::stable::new_zeros(channel, channel.sizes()),
            torch::stable::new_zeros(spatial, spatial.sizes())};
  }
  Tensor grad_sampled = torch::stable::new_empty(sampled, sampled.sizes());
  Tensor grad_channel = torch::stable::new_empty(channel, channel.sizes());
  Tensor grad_spatial = torch::stable::new_empty(spatial, spatial.sizes());
  MixTask<T> task = task_of<T>(sampled, channel, spatial, epsilon);
  task.grad_out = grad.const_data_ptr<T>();
  task.grad_sampled = grad_sampled.mutable_data_ptr<T>();
  task.grad_channel = grad_channel.mutable_data_ptr<T>();
  task.grad_spatial = grad_spatial.mutable_data_ptr<T>();
  run(task, sampled.size(0), kernels<T>().mix_backward);
  return {grad_sampled, grad_channel, grad_spatial};
}

Tensor adaptive_mix(const Tensor& sampled, const Tensor& channel, const Tensor& spatial, double epsilon) {
  check(sampled, channel, spatial);
  const bool is_double = sampled.scalar_type() == ScalarType::Double;
  return is_double ? forward<double>(sampled, channel, spatial, epsilon)
                   : forward<float>(sampled, channel, spatial, epsilon);
}

Grads adaptive_mix_backward(const Tensor& grad, const Tensor& sampled, const Tensor& channel, const Tensor& spatial,
                            double epsilon) {
  check(sampled, channel, spatial);
  check_operand(sampled, grad, "grad_output", spatial.size(1), sampled.size(2));
  const bool is_double = sampled.scalar_type() == ScalarType::Double;
  return is_double ? backward<double>(grad, sampled, channel, spatial, epsilon)
                   : backward<float>(grad, sampled, channel, spatial, epsilon);
}

}  // namespace
}  // namespace sqr::cpu

STABLE_TORCH_LIBRARY_IMPL(sqr, CPU, m) {
  m.impl("adaptive_mix", TORCH_BOX(&sqr::cpu::adaptive_mix));
  m.impl("adaptive_mix_backward", TORCH_BOX(&sqr::cpu::adaptive_mix_backward));
}
