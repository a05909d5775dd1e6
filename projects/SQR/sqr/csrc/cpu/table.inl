// The table of one instruction set, included after its kernels.

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
void mix_forward_f32(const MixTask<float>& t) { mix_forward_kernel(t); }
void mix_forward_f64(const MixTask<double>& t) { mix_forward_kernel(t); }
void mix_backward_f32(const MixTask<float>& t) { mix_backward_kernel(t); }
void mix_backward_f64(const MixTask<double>& t) { mix_backward_kernel(t); }
constexpr Kernels kTable = {{forward_f32, backward_f32, copy_f32, mix_forward_f32, mix_backward_f32},
                            {forward_f64, backward_f64, copy_f64, mix_forward_f64, mix_backward_f64}};
