// Runs the CUDA kernels' source on the host and compares with loops that are too simple to be wrong. Buffers have
// exactly the sizes the kernels may touch, so that AddressSanitizer sees one element too many.
#include "cuda_emulation.h"

#include SQR_KERNELS

#include <cstdio>
#include <random>

using namespace sqr::cuda;

struct Sizes {
  int batch, queries, heads, channels, points;
  bool keep_points;
};

static const Level<float> kLevels[] = {{0, 7, 5, 7, 5}, {35, 3, 4, 3, 4}, {47, 1, 1, 1, 1}};
static const int kNumLevels = 3, kTokens = 48;

static Call<float> make_call(const Sizes& s) {
  Call<float> call{};
  for (int l = 0; l < kNumLevels; ++l) {
    call.levels[l] = kLevels[l];
    if (s.keep_points) call.levels[l].scale_x = call.levels[l].scale_y = 1.0f / (4 << l);
  }
  call.num_levels = kNumLevels;
  call.points = s.points;
  call.keep_points = s.keep_points;
  call.items = int64_t(s.batch) * s.queries * s.heads;
  call.queries = s.queries;
  call.heads = s.heads;
  call.tokens = kTokens;
  call.channels = s.channels;
  return call;
}

struct Data {
  std::vector<float> value, locations, weights, grad_out, out, grad_value, grad_locations, grad_weights;
};

static Data make_data(const Sizes& s, const Call<float>& call) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  const size_t items = call.items, taps = kNumLevels * s.points;
  Data d;
  d.value.resize(size_t(s.batch) * kTokens * s.heads * s.channels);
  d.weights.resize(items * taps);
  d.locations.resize(items * (s.keep_points ? s.points : taps) * 2);
  d.grad_out.resize(items * (s.keep_points ? s.points : 1) * s.channels);
  for (auto* v : {&d.value, &d.weights, &d.grad_out}) {
    for (float& x : *v) x = uniform(random) - 0.5f;
  }
  // Beyond the levels on all sides, and every fourth near a level's last pixel.
  for (size_t i = 0; i < d.locations.size(); ++i) {
    const float u = i / 2 % 4 == 3 ? 0.93f + 0.1f * uniform(random) : 1.5f * uniform(random) - 0.25f;
    d.locations[i] = s.keep_points ? u * 28 : u;
  }
  if (d.locations.size() > 8) d.locations[2] = NAN, d.locations[5] = INFINITY, d.locations[6] = -1e30f;
  d.out.assign(d.grad_out.size(), NAN);
  d.grad_value.assign(d.value.size(), 0);
  d.grad_locations.assign(d.locations.size(), 0);
  d.grad_weights.assign(d.weights.size(), 0);
  return d;
}

// One thread, one corner at a time, in double.
static Data naive(const Sizes& s, const Call<float>& call, Data d) {
  std::vector<double> out(d.out.size()), grad_value(d.value.size()), grad_locations(d.locations.size());
  const int taps = kNumLevels * s.points;
  for (int64_t item = 0; item < call.items; ++item) {
    const int64_t b = item / (s.queries * s.heads), head = item % s.heads;
    for (int t = 0; t < taps; ++t) {
      const int l = s.keep_points ? t % kNumLevels : t / s.points, p = s.keep_points ? t / kNumLevels : 0;
      const Level<float>& level = call.levels[l];
      const size_t where = s.keep_points ? item * s.points + p : item * taps + t;
      const size_t row = s.keep_points ? item * s.points + p : item;
      const double x = double(d.locations[2 * where]) * level.scale_x - 0.5;
      const double y = double(d.locations[2 * where + 1]) * level.scale_y - 0.5;
      double grad_weight = 0;
      if (x > -1 && x < level.width && y > -1 && y < level.height) {
        const int x0 = int(std::floor(x)), y0 = int(std::floor(y));
        for (int dy = 0; dy < 2; ++dy) {
          for (int dx = 0; dx < 2; ++dx) {
            const int cx = x0 + dx, cy = y0 + dy;
            if (cx < 0 || cx >= level.width || cy < 0 || cy >= level.height) continue;
            const double wx = dx ? x - x0 : 1 - (x - x0), wy = dy ? y - y0 : 1 - (y - y0);
            const double a = d.weights[item * taps + t];
            for (int c = 0; c < s.channels; ++c) {
              const size_t v = ((b * kTokens + level.start + cy * level.width + cx) * s.heads + head) * s.channels + c;
              const double g = d.grad_out[row * s.channels + c];
              out[row * s.channels + c] += a * wx * wy * d.value[v];
              grad_value[v] += a * wx * wy * g;
              grad_weight += wx * wy * g * d.value[v];
              grad_locations[2 * where] += a * level.scale_x * (dx ? 1 : -1) * wy * g * d.value[v];
              grad_locations[2 * where + 1] += a * level.scale_y * (dy ? 1 : -1) * wx * g * d.value[v];
            }
          }
        }
      }
      d.grad_weights[item * taps + t] = float(grad_weight);
    }
  }
  d.out.assign(out.begin(), out.end());
  d.grad_value.assign(grad_value.begin(), grad_value.end());
  d.grad_locations.assign(grad_locations.begin(), grad_locations.end());
  return d;
}

static void compare(const char* what, const std::vector<float>& got, const std::vector<float>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::fabs(got[i] - want[i]) < 1e-3)) {
      throw std::runtime_error("wrong " + std::string(what) + "[" + std::to_string(i) + "]: " +
                               std::to_string(got[i]) + " instead of " + std::to_string(want[i]));
    }
  }
}

template <int kVector, int kLanes, Scatter kScatter = Scatter::kByArchitecture, class I = int32_t>
static void check(const Sizes& s) {
  const Call<float> call = make_call(s);
  Data d = make_data(s, call);
  const Data want = naive(s, call, d);
  const int blocks = 2;  // fewer than items: the grid has to stride
  auto forward = forward_kernel<float, float, kVector, kLanes, I>;
  SQR_LAUNCH(forward, blocks, kBlockThreads, nullptr, call, d.value.data(), d.locations.data(), d.weights.data(),
             d.out.data());
  auto backward = backward_kernel<float, float, kVector, kLanes, kScatter, I>;
  SQR_LAUNCH(backward, blocks, kBlockThreads, nullptr, call, d.grad_out.data(), d.value.data(), d.locations.data(),
             d.weights.data(), d.grad_value.data(), d.grad_locations.data(), d.grad_weights.data());
  compare("output", d.out, want.out);
  compare("gradient of the value", d.grad_value, want.grad_value);
  compare("gradient of the locations", d.grad_locations, want.grad_locations);
  compare("gradient of the weights", d.grad_weights, want.grad_weights);
}

int main() {
  try {
    for (bool keep_points : {false, true}) {
      check<4, 8>({2, 17, 3, 32, 4, keep_points});
#ifndef SQR_ONE_SHAPE  // what planted errors need, which is compiled many times
      check<4, 4>({1, 5, 2, 8, 2, keep_points});     // lanes without channels
      check<4, 8>({1, 3, 1, 80, 3, keep_points});    // more channels than a group holds
      check<1, 32>({1, 3, 2, 21, 1, keep_points});   // odd channels, fewer taps than lanes
      check<1, 32>({1, 2, 1, 5, 13, keep_points});   // more taps than lanes
      check<1, 32, Scatter::kByArchitecture, int64_t>({1, 3, 2, 21, 1, keep_points});
      check<4, 8, Scatter::kContiguous>({1, 3, 1, 80, 3, keep_points});
      check<4, 8, Scatter::kStrided>({1, 3, 1, 80, 3, keep_points});
      check<4, 4, Scatter::kStrided>({1, 5, 2, 8, 2, keep_points});
#endif
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::puts("all equal");
  return 0;
}
