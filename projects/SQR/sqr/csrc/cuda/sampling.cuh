// The CUDA kernels of both operators. They know nothing of PyTorch, and compile for the host as well: see
// tests/ops/cuda_emulation.h for the rules that follow from it.
//
// An item is one query of one head of one image. A group of kLanes neighbouring threads of a warp shares it, each
// holding kVector channels. The group works out its taps together, one a lane, and hands each to all of its lanes by a
// shuffle, so that coordinates are computed once and not once a channel. All lanes of a warp run the same number of
// steps: a group without an item of its own repeats the last one and writes nothing.
//
// A block takes kBlockThreads / kLanes items and the grid strides over all of them, so the number of queries may have
// any divisors. Sums are of type A: float, or double for double values. Indices are of type I: 64-bit arithmetic, which
// GPUs emulate, is left to tensors that need it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sqr::cuda {

constexpr int kMaxLevels = 16;
constexpr int kBlockThreads = 128;
constexpr int kBlocksASm = 5;  // at least: leaves the compiler 96 registers, of which it spills none
constexpr unsigned kFullWarp = 0xffffffffu;

// How the backward pass divides channels among lanes and adds to the values' gradient. No GPU has measured them yet:
// the default follows from how many 32-byte sectors an atomic instruction touches.
enum class Scatter {
  kByArchitecture,  // kVectorised from sm_90 on, kStrided before
  kContiguous,      // neighbouring channels of a lane, an atomic each: a warp's instruction fills 2 of a sector's 8 words
  kStrided,         // every kLanes-th channel: neighbouring lanes add to neighbouring words
  kVectorised,      // neighbouring channels, four in an atomic
};

template <class A>
struct Level {
  int32_t start;  // the level's first row; problem.h has checked that rows fit 32 bits
  int32_t width, height;
  A scale_x, scale_y;  // pixel position = location * scale - 0.5
};

template <class A>
struct Call {
  Level<A> levels[kMaxLevels];
  int32_t num_levels, points;
  bool keep_points;  // adaptive sampling: one output row a point, summed over the levels only
  int64_t items, queries, heads, tokens, channels;
};

// A bilinear sample: its top left pixel's row, which of the four corners exist (bit 0 top left, 1 top right, 2 bottom
// left, 3 bottom right), its level, the position inside of the pixel square and the weight.
template <class A>
struct Tap {
  int32_t row;
  uint32_t corners_and_level;
  A lx, ly, weight;
};

template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T v[kVector];
};

template <class A>
__device__ __forceinline__ Tap<A> find_tap(const Call<A>& call, const A* __restrict__ locations,
                                           const A* __restrict__ weights, int64_t item, int index) {
  const int taps = call.num_levels * call.points;
  const int l = call.keep_points ? index % call.num_levels : index / call.points;
  const int64_t location =
      call.keep_points ? item * call.points + index / call.num_levels : item * taps + index;
  const Level<A> level = call.levels[l];
  A x = locations[2 * location] * level.scale_x - A(0.5), y = locations[2 * location + 1] * level.scale_y - A(0.5);
  // Also false for what is not a number; -2 has no corner inside.
  const bool inside = x > A(-1) && x < A(level.width) && y > A(-1) && y < A(level.height);
  x = inside ? x : A(-2);
  y = inside ? y : A(-2);
  const A floor_x = floor(x), floor_y = floor(y);
  const int32_t x0 = static_cast<int32_t>(floor_x), y0 = static_cast<int32_t>(floor_y);
  const uint32_t left = x0 >= 0, right = inside && x0 + 1 < level.width;
  const uint32_t top = y0 >= 0, bottom = inside && y0 + 1 < level.height;
  Tap<A> tap;
  tap.row = level.start + y0 * level.width + x0;
  tap.corners_and_level = (top & left) | (top & right) << 1 | (bottom & left) << 2 | (bottom & right) << 3 |
                          static_cast<uint32_t>(l) << 4;
  tap.lx = x - floor_x;
  tap.ly = y - floor_y;
  tap.weight = weights[item * taps + index];
  return tap;
}

template <int kLanes, class A>
__device__ __forceinline__ Tap<A> broadcast(const Tap<A>& tap, int lane) {
  Tap<A> out;
  out.row = __shfl_sync(kFullWarp, tap.row, lane, kLanes);
  out.corners_and_level = __shfl_sync(kFullWarp, tap.corners_and_level, lane, kLanes);
  out.lx = __shfl_sync(kFullWarp, tap.lx, lane, kLanes);
  out.ly = __shfl_sync(kFullWarp, tap.ly, lane, kLanes);
  out.weight = __shfl_sync(kFullWarp, tap.weight, lane, kLanes);
  return out;
}

template <int kLanes, class A>
__device__ __forceinline__ A sum_over_lanes(A x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset, kLanes);
  return x;
}

// The row of corner c relative to the top left one's.
__device__ __forceinline__ int32_t corner_row(int32_t row, int c, int32_t width) {
  return row + (c & 1) + (c & 2 ? width : 0);
}

template <class A>
__device__ __forceinline__ A corner_weight(const Tap<A>& tap, int c) {
  return (c & 1 ? tap.lx : A(1) - tap.lx) * (c & 2 ? tap.ly : A(1) - tap.ly);
}

// The choice that kByArchitecture stands for where the code is compiled.
__host__ __device__ constexpr Scatter resolve(Scatter asked) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return asked == Scatter::kByArchitecture || asked == Scatter::kVectorised ? Scatter::kStrided : asked;
#else
  return asked == Scatter::kByArchitecture ? Scatter::kVectorised : asked;
#endif
}

// A lane's channels of a row, of which it holds `count`; `row` points at the first one.
template <bool kIsStrided, int kLanes, class T, class A, int kVector>
__device__ __forceinline__ void load(const T* row, int count, A (&x)[kVector]) {
  if constexpr (kIsStrided) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) x[v] = v < count ? static_cast<A>(row[v * kLanes]) : A(0);
  } else {
    const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(row);
#pragma unroll
    for (int v = 0; v < kVector; ++v) x[v] = static_cast<A>(pack.v[v]);
  }
}

template <Scatter kScatter, int kLanes, class A, int kVector>
__device__ __forceinline__ void scatter(A* row, int count, const A (&x)[kVector]) {
  if constexpr (kScatter == Scatter::kVectorised && kVector % 4 == 0 && std::is_same_v<A, float>) {
#pragma unroll
    for (int v = 0; v < kVector; v += 4) {
      atomicAdd(reinterpret_cast<float4*>(row + v), make_float4(x[v], x[v + 1], x[v + 2], x[v + 3]));
    }
  } else {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (kScatter != Scatter::kStrided || v < count) {
        atomicAdd(row + (kScatter == Scatter::kStrided ? v * kLanes : v), x[v]);
      }
    }
  }
}

template <class T, class A, int kVector, int kLanes, class I>
__global__ void __launch_bounds__(kBlockThreads, kBlocksASm)
    forward_kernel(const Call<A> call, const T* __restrict__ value, const A* __restrict__ locations,
                   const A* __restrict__ weights, T* __restrict__ out) {
  constexpr int kItems = kBlockThreads / kLanes;
  const int lane = threadIdx.x % kLanes, slot = threadIdx.x / kLanes;
  const int taps = call.num_levels * call.points;
  const int per_row = call.keep_points ? call.num_levels : taps;
  const I items = I(call.items), heads = I(call.heads), channels = I(call.channels), tokens = I(call.tokens);
  const I per_image = I(call.queries) * heads, stride = heads * channels;  // from pixel to pixel
  for (I base = I(blockIdx.x) * kItems; base < items; base += I(gridDim.x) * kItems) {
    const bool active = base + slot < items;
    const I item = active ? base + slot : items - 1;
    const I image = item / per_image, head = item % heads;
    for (I first_channel = 0; first_channel < channels; first_channel += kLanes * kVector) {
      const I channel = first_channel + lane * kVector;
      const bool has_channels = channel < channels;
      const T* pixels = value + image * tokens * stride + head * channels + channel;
      T* target = out + item * (taps / per_row) * channels + channel;
      A sum[kVector] = {};
      int left_in_row = per_row;
      for (int first = 0; first < taps; first += kLanes) {
        const Tap<A> mine = find_tap(call, locations, weights, item, min(first + lane, taps - 1));
        const int count = min(kLanes, taps - first);
        for (int j = 0; j < count; ++j) {
          const Tap<A> tap = broadcast<kLanes>(mine, j);
          const int32_t width = call.levels[tap.corners_and_level >> 4].width;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (has_channels && (tap.corners_and_level >> c & 1)) {
              const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(pixels + I(corner_row(tap.row, c, width)) * stride);
              const A w = tap.weight * corner_weight(tap, c);
#pragma unroll
              for (int v = 0; v < kVector; ++v) sum[v] += w * static_cast<A>(pack.v[v]);
            }
          }
          if (--left_in_row == 0) {
            Pack<T, kVector> pack;
#pragma unroll
            for (int v = 0; v < kVector; ++v) {
              pack.v[v] = static_cast<T>(sum[v]);
              sum[v] = A(0);
            }
            if (active && has_channels) *reinterpret_cast<Pack<T, kVector>*>(target) = pack;
            target += channels;
            left_in_row = per_row;
          }
        }
      }
    }
  }
}

// grad_value is of type A, zero before, and added to with atomics; the other gradients are written once, by one thread.
template <class T, class A, int kVector, int kLanes, Scatter kAsked, class I>
__global__ void __launch_bounds__(kBlockThreads, kBlocksASm)
    backward_kernel(const Call<A> call, const T* __restrict__ grad_out, const T* __restrict__ value,
                    const A* __restrict__ locations, const A* __restrict__ weights, A* __restrict__ grad_value,
                    A* __restrict__ grad_locations, A* __restrict__ grad_weights) {
  constexpr int kItems = kBlockThreads / kLanes;
  const int lane = threadIdx.x % kLanes, slot = threadIdx.x / kLanes;
  const int taps = call.num_levels * call.points;
  const int per_row = call.keep_points ? call.num_levels : taps;
  constexpr Scatter kScatter = resolve(kAsked);
  constexpr bool kIsStrided = kScatter == Scatter::kStrided;
  const I items = I(call.items), heads = I(call.heads), channels = I(call.channels), tokens = I(call.tokens);
  const I per_image = I(call.queries) * heads, stride = heads * channels;
  for (I base = I(blockIdx.x) * kItems; base < items; base += I(gridDim.x) * kItems) {
    const bool active = base + slot < items;
    const I item = active ? base + slot : items - 1;
    const I image = item / per_image, head = item % heads;
    for (I first_channel = 0; first_channel < channels; first_channel += kLanes * kVector) {
      const I channel = first_channel + (kIsStrided ? lane : lane * kVector);
      const bool has_channels = channel < channels, again = first_channel > 0;
      const int held = kIsStrided ? int((channels - channel + kLanes - 1) / kLanes) : kVector;  // where it has any
      const I pixels = image * tokens * stride + head * channels + channel;
      const T* source = grad_out + item * (taps / per_row) * channels + channel;
      A* grad_point = grad_locations + item * call.points * 2;  // adaptive sampling
      A grad[kVector] = {}, point_x = A(0), point_y = A(0);
      int left_in_row = 0;
      for (int first = 0; first < taps; first += kLanes) {
        const Tap<A> mine = find_tap(call, locations, weights, item, min(first + lane, taps - 1));
        const int count = min(kLanes, taps - first);
        A my_weight = A(0), my_x = A(0), my_y = A(0);
        for (int j = 0; j < count; ++j) {
          if (left_in_row == 0) {
            if (has_channels) load<kIsStrided, kLanes>(source, held, grad);
            source += channels;
            left_in_row = per_row;
          }
          const Tap<A> tap = broadcast<kLanes>(mine, j);
          const Level<A>& level = call.levels[tap.corners_and_level >> 4];
          A dots[4] = {};
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (has_channels && (tap.corners_and_level >> c & 1)) {
              const I pixel = pixels + I(corner_row(tap.row, c, level.width)) * stride;
              const A w = tap.weight * corner_weight(tap, c);
              A x[kVector];
              load<kIsStrided, kLanes>(value + pixel, held, x);
#pragma unroll
              for (int v = 0; v < kVector; ++v) {
                dots[c] += grad[v] * x[v];
                x[v] = w * grad[v];
              }
              if (active) scatter<kScatter, kLanes>(grad_value + pixel, held, x);
            }
          }
          const A hx = A(1) - tap.lx, hy = A(1) - tap.ly;
          const A weight_grad = sum_over_lanes<kLanes>(hy * (hx * dots[0] + tap.lx * dots[1]) +
                                                       tap.ly * (hx * dots[2] + tap.lx * dots[3]));
          const A x_grad = sum_over_lanes<kLanes>(tap.weight * level.scale_x *
                                                  (hy * (dots[1] - dots[0]) + tap.ly * (dots[3] - dots[2])));
          const A y_grad = sum_over_lanes<kLanes>(tap.weight * level.scale_y *
                                                  (hx * (dots[2] - dots[0]) + tap.lx * (dots[3] - dots[1])));
          if (lane == j) {
            my_weight = weight_grad;
            my_x = x_grad;
            my_y = y_grad;
          }
          point_x += x_grad;
          point_y += y_grad;
          if (--left_in_row == 0) {
            if (call.keep_points && active && lane == 0) {
              grad_point[0] = again ? grad_point[0] + point_x : point_x;
              grad_point[1] = again ? grad_point[1] + point_y : point_y;
            }
            grad_point += 2;
            point_x = point_y = A(0);
          }
        }
        if (active && first + lane < taps) {
          const I tap = item * taps + first + lane;
          grad_weights[tap] = again ? grad_weights[tap] + my_weight : my_weight;
          if (!call.keep_points) {
            grad_locations[2 * tap] = again ? grad_locations[2 * tap] + my_x : my_x;
            grad_locations[2 * tap + 1] = again ? grad_locations[2 * tap + 1] + my_y : my_y;
          }
        }
      }
    }
  }
}

}  // namespace sqr::cuda
