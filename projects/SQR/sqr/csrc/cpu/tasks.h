// What the CPU operators share: memory of one call, and tasks for threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace sqr::cpu {

// Memory of one call, aligned to cache lines. Allocated before threads start, which must not throw.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t elements) {
    const size_t bytes = (std::max<int64_t>(elements, 1) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

inline int64_t workers_for(int64_t tasks) {
  return std::max<int64_t>(1, std::min<int64_t>(tasks, torch::stable::get_num_threads()));
}

// f(task, worker) for every task; a worker takes the next task when it is done with one, so uneven ones balance.
template <class F>
void run_tasks(int64_t tasks, const F& f) {
  const int64_t workers = workers_for(tasks);
  std::atomic<int64_t> next{0};
  auto work = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t task = next++; task < tasks; task = next++) f(task, worker);
    }
  };
  if (workers == 1) {
    work(0, 1);
  } else {
    torch::stable::parallel_for(0, workers, 1, work);
  }
}

}  // namespace sqr::cpu
