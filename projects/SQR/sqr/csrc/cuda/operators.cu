// The CUDA operators: checks, launch shapes, and the choice among the kernels' instances.
//
// With SQR_EMULATED the same file is compiled for the host and registers under the CPU key of another namespace, for
// the tests.
#ifdef SQR_EMULATED
#include "cuda_emulation.h"  // tests/ops
#else
#include <cuda_runtime.h>
#define SQR_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

#include "../problem.h"
#include "sampling.cuh"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <tuple>

#ifndef SQR_NAMESPACE
#define SQR_NAMESPACE sqr
#define SQR_DISPATCH_KEY CUDA
#endif

namespace sqr::cuda {
namespace {

using Grads = std::tuple<Tensor, Tensor, Tensor>;

cudaStream_t current_stream(const Tensor& tensor) {
#ifdef SQR_EMULATED
  (void)tensor;
  return nullptr;
#else
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
#endif
}

// Makes the tensor's device the current one while a call lasts.
struct OnDeviceOf {
#ifdef SQR_EMULATED
  explicit OnDeviceOf(const Tensor&) {}
#else
  explicit OnDeviceOf(const Tensor& tensor) : guard(tensor.get_device_index()) {}
  torch::stable::accelerator::DeviceGuard guard;
#endif
};

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "a kernel of sqr did not start: ", cudaGetErrorString(error));
}

template <class A>
Call<A> make_call(const Problem& p) {
  STD_TORCH_CHECK(p.num_levels() <= kMaxLevels, "the CUDA operators take at most ", kMaxLevels, " levels, but there are ",
                  p.num_levels());
  STD_TORCH_CHECK(p.points < (int64_t(1) << 24), "there are ", p.points, " points a query, more than the kernels count");
  Call<A> call{};
  for (int64_t l = 0; l < p.num_levels(); ++l) {
    call.levels[l] = {static_cast<int32_t>(p.levels[l].start), static_cast<int32_t>(p.levels[l].width),
                      static_cast<int32_t>(p.levels[l].height), static_cast<A>(p.scale_x[l]),
                      static_cast<A>(p.scale_y[l])};
  }
  call.num_levels = static_cast<int32_t>(p.num_levels());
  call.points = static_cast<int32_t>(p.points);
  call.keep_points = p.keep_points;
  call.items = p.batch * p.queries * p.heads;
  call.queries = p.queries;
  call.heads = p.heads;
  call.tokens = p.tokens;
  call.channels = p.channels;
  return call;
}

#ifndef SQR_SCATTER
#define SQR_SCATTER kByArchitecture
#endif
constexpr Scatter kScatter = Scatter::SQR_SCATTER;

// Whether 32 bits hold all indices, with room for a grid's last step beyond the items.
bool fits_32_bits(const Problem& p) {
  const int64_t items = p.batch * p.queries * p.heads, taps = items * p.num_levels() * p.points * 2;
  const int64_t values = p.batch * p.tokens * p.heads * p.channels, outputs = items * p.points * p.channels;
  return std::max({items, taps, values, outputs}) < (int64_t(1) << 30);
}

// f(integral_constant vector, integral_constant lanes, index): 16-byte loads where rows and tensors are aligned to them.
template <class T, class F>
void choose_shape(const Problem& p, bool aligned, const F& choose) {
  if (!fits_32_bits(p)) {
    return choose(std::integral_constant<int, 1>(), std::integral_constant<int, 32>(), int64_t());
  }
  const auto f = [&](auto vector, auto lanes) { choose(vector, lanes, int32_t()); };
  constexpr int kVector = sizeof(T) == 8 ? 1 : 16 / sizeof(T);
  using Vector = std::integral_constant<int, kVector>;
  using One = std::integral_constant<int, 1>;
  const int64_t lanes = (p.channels + kVector - 1) / kVector;
  if (kVector == 1 || !aligned || p.channels % kVector != 0) return f(One(), std::integral_constant<int, 32>());
  if (lanes <= 4) return f(Vector(), std::integral_constant<int, 4>());
  if (lanes <= 8) return f(Vector(), std::integral_constant<int, 8>());
  if (lanes <= 16) return f(Vector(), std::integral_constant<int, 16>());
  return f(Vector(), std::integral_constant<int, 32>());
}

template <class F>
void with_type(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Float:
      return f(float());
#ifndef SQR_ONLY_FLOAT
    case ScalarType::Double:
      return f(double());
    case ScalarType::Half:
      return f(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16());
#endif
    default:
      STD_TORCH_CHECK(false, "value must be float16, bfloat16, float32 or float64, but is ", toString(type));
  }
}

bool is_aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0; }

int blocks_for(int64_t items, int lanes) {
  const int64_t per_block = kBlockThreads / lanes;
  return static_cast<int>(std::min<int64_t>((items + per_block - 1) / per_block, int64_t(1) << 20));
}

Tensor forward(const Problem& p, const Tensor& value_in, const Tensor& locations_in, const Tensor& weights_in) {
  const OnDeviceOf guard(value_in);
  const Tensor value = torch::stable::contiguous(value_in), locations = torch::stable::contiguous(locations_in),
               weights = torch::stable::contiguous(weights_in);
  Tensor out = torch::stable::new_empty(value, p.out_sizes());
  if (p.empty()) return out;
  const cudaStream_t stream = current_stream(value);
  with_type(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const Call<A> call = make_call<A>(p);
    choose_shape<T>(p, is_aligned(value) && is_aligned(out), [&](auto vector, auto lanes, auto index) {
      auto kernel = forward_kernel<T, A, decltype(vector)::value, decltype(lanes)::value, decltype(index)>;
      SQR_LAUNCH(kernel, blocks_for(call.items, lanes), kBlockThreads, stream, call,
                 static_cast<const T*>(value.const_data_ptr()), static_cast<const A*>(locations.const_data_ptr()),
                 static_cast<const A*>(weights.const_data_ptr()), static_cast<T*>(out.mutable_data_ptr()));
      check_launch();
    });
  });
  return out;
}

Grads backward(const Problem& p, const Tensor& grad_in, const Tensor& value_in, const Tensor& locations_in,
               const Tensor& weights_in) {
  check_grad(p, value_in, grad_in);
  const OnDeviceOf guard(value_in);
  const Tensor grad = torch::stable::contiguous(grad_in), value = torch::stable::contiguous(value_in),
               locations = torch::stable::contiguous(locations_in), weights = torch::stable::contiguous(weights_in);
  // 16-bit additions one after another would lose most of a gradient: the sum is float32 and rounded once.
  Tensor grad_value = torch::stable::new_zeros(value, value.sizes(), accumulation_type(value.scalar_type()));
  Tensor grad_locations = torch::stable::new_zeros(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_zeros(weights, weights.sizes());
  const cudaStream_t stream = current_stream(value);
  if (!p.empty()) {
    with_type(value.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
      const Call<A> call = make_call<A>(p);
      choose_shape<T>(p, is_aligned(value) && is_aligned(grad), [&](auto vector, auto lanes, auto index) {
        auto kernel =
            backward_kernel<T, A, decltype(vector)::value, decltype(lanes)::value, kScatter, decltype(index)>;
        SQR_LAUNCH(kernel, blocks_for(call.items, lanes), kBlockThreads, stream, call,
                   static_cast<const T*>(grad.const_data_ptr()), static_cast<const T*>(value.const_data_ptr()),
                   static_cast<const A*>(locations.const_data_ptr()), static_cast<const A*>(weights.const_data_ptr()),
                   static_cast<A*>(grad_value.mutable_data_ptr()), static_cast<A*>(grad_locations.mutable_data_ptr()),
                   static_cast<A*>(grad_weights.mutable_data_ptr()));
        check_launch();
      });
    });
  }
  if (grad_value.scalar_type() != value.scalar_type()) grad_value = torch::stable::to(grad_value, value.scalar_type());
  return {grad_value, grad_locations, grad_weights};
}

Tensor ms_deform_attn(const Tensor& value, std::vector<int64_t> shapes, const Tensor& locations,
                      const Tensor& weights) {
  return forward(deformable_problem(value, shapes, locations, weights), value, locations, weights);
}

Grads ms_deform_attn_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                              const Tensor& locations, const Tensor& weights) {
  return backward(deformable_problem(value, shapes, locations, weights), grad, value, locations, weights);
}

Tensor adaptive_sample(const Tensor& value, std::vector<int64_t> shapes, std::vector<double> strides,
                       const Tensor& points, const Tensor& weights) {
  return forward(adaptive_problem(value, shapes, strides, points, weights), value, points, weights);
}

Grads adaptive_sample_backward(const Tensor& grad, const Tensor& value, std::vector<int64_t> shapes,
                               std::vector<double> strides, const Tensor& points, const Tensor& weights) {
  return backward(adaptive_problem(value, shapes, strides, points, weights), grad, value, points, weights);
}

}  // namespace
}  // namespace sqr::cuda

STABLE_TORCH_LIBRARY_IMPL(SQR_NAMESPACE, SQR_DISPATCH_KEY, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&sqr::cuda::ms_deform_attn));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&sqr::cuda::ms_deform_attn_backward));
  m.impl("adaptive_sample", TORCH_BOX(&sqr::cuda::adaptive_sample));
  m.impl("adaptive_sample_backward", TORCH_BOX(&sqr::cuda::adaptive_sample_backward));
}
