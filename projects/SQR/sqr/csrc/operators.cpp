// Schemas. The extension is a plain library: loading it registers the operators, nothing in it knows Python.
#include <torch/csrc/stable/library.h>

// The CUDA sources compiled for the host register under a name of their own.
#ifndef SQR_NAMESPACE
#define SQR_NAMESPACE sqr
#endif

STABLE_TORCH_LIBRARY(SQR_NAMESPACE, m) {
  m.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights) "
      "-> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
  m.def(
      "adaptive_sample(Tensor value, SymInt[] spatial_shapes, float[] strides, Tensor points, "
      "Tensor level_weights) -> Tensor");
  m.def(
      "adaptive_sample_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, float[] strides, "
      "Tensor points, Tensor level_weights) -> (Tensor, Tensor, Tensor)");
  // Has kernels for the CPU alone; elsewhere PyTorch's batched products do the same.
  m.def("adaptive_mix(Tensor sampled, Tensor channel, Tensor spatial, float epsilon) -> Tensor");
  m.def(
      "adaptive_mix_backward(Tensor grad_output, Tensor sampled, Tensor channel, Tensor spatial, float epsilon) "
      "-> (Tensor, Tensor, Tensor)");
}
