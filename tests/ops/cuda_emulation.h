// A small model of CUDA's execution on the host, to run the kernels' own source where there is no GPU.
//
// A block's threads are fibers that run until they meet a barrier or a shuffle and go on when everybody it names has
// come. What would hang or be undefined on a device is an error here: a shuffle whose lanes differ in mask, one that
// names a lane which has left, a barrier that not all threads reach. Blocks run one after another, fibers in a fixed
// order, so this shows wrong indices, wrong masks and divergence, but neither data races nor anything about speed,
// streams or the hardware's arithmetic.
//
// Rules for sources: launch with SQR_LAUNCH, use only the intrinsics below, no inline PTX, no dynamic shared memory.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

namespace sqr::emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

enum class Wait { kNothing, kBarrier, kShuffle };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  Wait wait = Wait::kNothing;
  unsigned mask = 0;     // of the shuffle it waits at
  int kind = 0;          // which intrinsic
  uint64_t posted = 0;   // what it gives
  uint64_t warp[kWarp];  // what all lanes gave
};

struct Block {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  int current = 0;
  const std::function<void()>* body = nullptr;
  std::string error;  // what a fiber threw: an exception cannot cross to the scheduler's stack
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
};

inline Block* block = nullptr;
inline Index thread_index, block_index, block_size, grid_size;

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error("emulated CUDA: " + what); }

inline void switch_to(ucontext_t* from, ucontext_t* to, const void* stack, size_t size, bool leaves_for_good) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(leaves_for_good ? nullptr : &fake, stack, size);
  swapcontext(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  (void)stack, (void)size, (void)leaves_for_good;
  swapcontext(from, to);
#endif
}

inline void suspend(Wait wait) {
  Fiber& fiber = block->fibers[block->current];
  fiber.wait = wait;
  switch_to(&fiber.context, &block->scheduler, block->scheduler_stack, block->scheduler_stack_size, false);
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_stack, &block->scheduler_stack_size);
#endif
  try {
    (*block->body)();
  } catch (const std::exception& error) {
    block->error = error.what();
  }
  Fiber& fiber = block->fibers[block->current];
  fiber.done = true;
  switch_to(&fiber.context, &block->scheduler, block->scheduler_stack, block->scheduler_stack_size, true);
}

// Lets a shuffle's lanes go on when all of them are there. Returns whether it did.
inline bool release_shuffle(int first_lane_of_warp, int thread) {
  std::vector<Fiber>& fibers = block->fibers;
  const unsigned mask = fibers[thread].mask;
  if (!(mask >> (thread - first_lane_of_warp) & 1)) fail("a shuffle's mask leaves out the lane that calls it");
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const size_t other = first_lane_of_warp + lane;
    if (other >= fibers.size() || fibers[other].done) fail("deadlock: a shuffle waits for a lane that has left");
    if (fibers[other].wait == Wait::kBarrier) fail("deadlock: a shuffle waits for a lane that stands at a barrier");
    if (fibers[other].wait != Wait::kShuffle) return false;
    if (fibers[other].mask != mask) fail("the lanes of a shuffle differ in its mask");
    if (fibers[other].kind != fibers[thread].kind) fail("lanes of a warp meet in different shuffles");
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Fiber& to = fibers[first_lane_of_warp + lane];
    for (int from = 0; from < kWarp; ++from) {
      to.warp[from] = mask >> from & 1 ? fibers[first_lane_of_warp + from].posted : ~uint64_t(0);
    }
    to.wait = Wait::kNothing;
  }
  return true;
}

inline void run_block(int threads, const std::function<void()>& body) {
  Block state;
  state.fibers.resize(threads);
  state.body = &body;
  block = &state;
  for (Fiber& fiber : state.fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
  for (;;) {
    bool moved = false, unfinished = false;
    for (int t = 0; t < threads; ++t) {
      Fiber& fiber = state.fibers[t];
      if (fiber.done) continue;
      unfinished = true;
      if (fiber.wait == Wait::kShuffle) moved |= release_shuffle(t / kWarp * kWarp, t);
      if (fiber.wait != Wait::kNothing) continue;
      state.current = t;
      thread_index.x = t;
      switch_to(&state.scheduler, &fiber.context, fiber.stack.get(), kStack, false);
      if (!state.error.empty()) throw std::runtime_error(state.error);
      moved = true;
    }
    if (!unfinished) break;
    if (moved) continue;
    for (const Fiber& fiber : state.fibers) {
      if (fiber.done) fail("divergent barrier: a thread has left while others wait for it");
      if (fiber.wait != Wait::kBarrier) fail("deadlock: some threads wait at a barrier, others in a shuffle");
    }
    for (Fiber& fiber : state.fibers) fiber.wait = Wait::kNothing;
  }
  block = nullptr;
}

template <class T>
inline T shuffle(unsigned mask, T value, int source, int kind) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  Fiber& fiber = block->fibers[block->current];
  fiber.posted = 0;
  std::memcpy(&fiber.posted, &value, sizeof(T));
  fiber.mask = mask;
  fiber.kind = kind;
  suspend(Wait::kShuffle);
  if (!(mask >> source & 1)) fail("a shuffle reads lane " + std::to_string(source) + ", which its mask leaves out");
  T out;
  std::memcpy(&out, &fiber.warp[source], sizeof(T));
  return out;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, Arguments... arguments) {
  grid_size.x = blocks;
  block_size.x = threads;
  for (int b = 0; b < blocks; ++b) {
    block_index.x = b;
    run_block(threads, [&] { kernel(arguments...); });
  }
}

}  // namespace sqr::emulation

#define threadIdx ::sqr::emulation::thread_index
#define blockIdx ::sqr::emulation::block_index
#define blockDim ::sqr::emulation::block_size
#define gridDim ::sqr::emulation::grid_size
#define SQR_LAUNCH(kernel, blocks, threads, stream, ...) \
  ((void)(stream), ::sqr::emulation::launch(kernel, blocks, threads, __VA_ARGS__))

inline void __syncthreads() { sqr::emulation::suspend(sqr::emulation::Wait::kBarrier); }

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = threadIdx.x % sqr::emulation::kWarp;
  return sqr::emulation::shuffle(mask, value, lane / width * width + source % width, 1);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int offset, int width = 32) {
  const int lane = threadIdx.x % sqr::emulation::kWarp, source = lane ^ offset;
  return sqr::emulation::shuffle(mask, value, source / width == lane / width ? source : lane, 2);
}

template <class T>
inline T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

struct alignas(16) float4 {
  float x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float4 atomicAdd(float4* address, float4 value) {
  const float4 old = *address;
  *address = {old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w};
  return old;
}

using std::floor;
using std::max;
using std::min;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
