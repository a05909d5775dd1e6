// Compiles the kernels for each instruction set and picks one at run time. One translation unit, so that no build
// system has to know flags for single files, and nothing but these kernels is compiled for more than the baseline.
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#define SQR_INLINE inline __attribute__((always_inline))
#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SQR_HAS_SHUFFLEVECTOR 1
#endif
#endif

namespace sqr::cpu {

static constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// What a Taps of kernels.inl holds of one tap.
static constexpr int64_t kTapNumbers = 22;

int64_t forward_scratch_bytes(int64_t taps, int64_t element_size) {
  return 2 * round_up(round_up(taps, 16) * kTapNumbers * element_size, 64);
}

int64_t backward_scratch_bytes(int64_t points, int64_t element_size) {
  const int64_t taps = round_up(std::max<int64_t>(1, kTapBlock / points) * points, 16);
  return round_up(taps * kTapNumbers * element_size, 64);
}

int64_t mix_scratch_elements(int64_t in_points, int64_t out_points, int64_t channels) {
  const int64_t turned = channels * std::max(in_points, channels);
  return round_up(3 * in_points * channels + out_points * channels + turned, kRowMultiple);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace baseline {
#define SQR_VECTOR_BYTES 16
#include "kernels.inl"
#include "mixing.inl"
#include "table.inl"
#undef SQR_VECTOR_BYTES
}  // namespace baseline

// Clang has no target pragma for a region; there the baseline is what -march says.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SQR_HAS_X86_LEVELS 1
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace v3 {
#define SQR_VECTOR_BYTES 32
#include "kernels.inl"
#include "mixing.inl"
#include "table.inl"
#undef SQR_VECTOR_BYTES
}  // namespace v3
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
namespace v4 {
#define SQR_VECTOR_BYTES 64
#include "kernels.inl"
#include "mixing.inl"
#include "table.inl"
#undef SQR_VECTOR_BYTES
}  // namespace v4
#pragma GCC pop_options
#endif

#pragma GCC diagnostic pop

namespace {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  bool (*supported)();
};

const InstructionSet kSets[] = {
#ifdef SQR_HAS_X86_LEVELS
    {"x86-64-v4", &v4::kTable,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
     }},
    {"x86-64-v3", &v3::kTable,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
              __builtin_cpu_supports("bmi2");
     }},
#endif
    {"baseline", &baseline::kTable, [] { return true; }},
};

std::atomic<const InstructionSet*>& chosen() {
  static std::atomic<const InstructionSet*> set = [] {
    const InstructionSet* best = kSets;
    while (!best->supported()) ++best;
    return best;
  }();
  return set;
}

}  // namespace

template <>
const KernelTable<float>& kernels<float>() {
  return chosen().load()->kernels->f32;
}

template <>
const KernelTable<double>& kernels<double>() {
  return chosen().load()->kernels->f64;
}

const char* instruction_set() { return chosen().load()->name; }

void set_instruction_set(const char* name) {
  for (const InstructionSet& set : kSets) {
    if (std::strcmp(set.name, name) == 0) {
      if (!set.supported()) throw std::runtime_error(std::string("this CPU has no ") + name);
      chosen() = &set;
      return;
    }
  }
  throw std::runtime_error(std::string("no instruction set \"") + name + "\" was built");
}

}  // namespace sqr::cpu
