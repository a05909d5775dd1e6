// What the drivers of the CPU operators know of the vectorised kernels: plain structures and a table of functions,
// filled once for each instruction set (kernels.inl) and chosen at run time (dispatch.cpp).
//
// Both sampling operators are one kernel. A query of a head has `points * levels` taps; a tap is a bilinear sample of one level,
// times one weight. Deformable attention adds all taps of a query to one row, adaptive sampling keeps one row a point
// and adds over the levels only. A location becomes a pixel position as `location * scale - 0.5`.
#pragma once

#include <cstdint>

namespace sqr::cpu {

// Channel rows in kernels' buffers are padded to a multiple of this many elements.
constexpr int64_t kRowMultiple = 16;

template <class T>
struct Level {
  int64_t start;  // the level's first row
  int32_t width, height;
  T scale_x, scale_y;
};

// The forward pass of one head of one image over the queries [begin, end).
template <class T>
struct ForwardTask {
  const T* value;     // this head's first row
  int64_t row_stride;  // elements from a pixel to the next
  int64_t row;         // elements of a row, a multiple of kRowMultiple
  const T* zeros;      // a row of zeros: what a corner outside of its level reads
  const T* locations;  // of query 0, as are the next two; strides are from query to query
  const T* weights;
  T* out;
  int64_t location_stride, weight_stride, out_stride;
  int64_t begin, end;
  const Level<T>* levels;
  int32_t num_levels, points;
  bool keep_points;     // adaptive sampling
  bool prefetch_value;  // fetch the next query's pixels while this one is summed
  void* scratch;        // forward_scratch_bytes()
};

// The backward pass of one level of one head of one image over the queries [begin, end).
template <class T>
struct BackwardTask {
  const T* value;  // the first row of the level in this head
  T* grad_value;   // added to
  int64_t row_stride;
  int64_t row;
  const T* zeros;
  T* sink;  // a row that takes the gradients of corners outside of the level
  const T* grad_out;
  int64_t out_stride, out_point_stride;
  const T* locations;
  const T* weights;
  int64_t location_stride, weight_stride, weight_point_stride;
  T* grad_locations;
  T* grad_weights;  // strides of the weights
  int64_t grad_location_stride;
  int64_t begin, end;
  int32_t points;
  Level<T> level;  // start is 0
  void* scratch;   // backward_scratch_bytes()
};

// Adaptive mixing, either pass, of the items [begin, end).
template <class T>
struct MixTask {
  const T* sampled;  // (items, in_points, channels), contiguous as all of them
  const T* channel;  // (items, channels, channels)
  const T* spatial;  // (items, out_points, in_points)
  const T* grad_out;
  T* out;  // (items, out_points, channels)
  T *grad_sampled, *grad_channel, *grad_spatial;
  int64_t in_points, out_points, channels;
  int64_t begin, end;
  T epsilon;
  T* scratch;  // mix_scratch_elements()
};

template <class T>
struct KernelTable {
  void (*forward)(const ForwardTask<T>&);
  void (*backward)(const BackwardTask<T>&);
  // `rows` rows of `columns` elements to rows of `target_stride` elements; columns up to `target_columns` become zero.
  void (*copy_rows)(const T* source, int64_t source_stride, T* target, int64_t target_stride, int64_t rows,
                    int64_t columns, int64_t target_columns);
  void (*mix_forward)(const MixTask<T>&);
  void (*mix_backward)(const MixTask<T>&);
};

struct Kernels {
  KernelTable<float> f32;
  KernelTable<double> f64;
};

int64_t forward_scratch_bytes(int64_t taps, int64_t element_size);
int64_t backward_scratch_bytes(int64_t points, int64_t element_size);
int64_t mix_scratch_elements(int64_t in_points, int64_t out_points, int64_t channels);

// Queries whose taps the backward kernel works out together.
constexpr int64_t kTapBlock = 64;

template <class T>
const KernelTable<T>& kernels();
// "x86-64-v4", "x86-64-v3" or "baseline": what kernels() runs. set_instruction_set() throws for one this CPU lacks.
const char* instruction_set();
void set_instruction_set(const char* name);

}  // namespace sqr::cpu
