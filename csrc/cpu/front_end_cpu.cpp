// front_end on a CPU. The filters are symmetric, so that samples at the same
// distance from the middle are added before they are multiplied; a tile of
// filters and samples stays in registers.
#include "front_end.h"

#include "vector_math.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

constexpr int kTileVectors = 3;  // so that samples come in whole pools
constexpr int kTileSamples = kTileVectors * kLanes<float>;
constexpr int kTileSteps = kLanes<float>;
// Pools of filters at a time, with their accumulators in registers.
constexpr int kTilePools = kHasMaskRegisters ? 2 : 1;

// Samples of a task, and behind them as many as a tile may read too far.
int64_t task_samples(const FrontEndParams& params) {
  return kFrontEndSteps * kPoolSteps + params.taps + kTileSamples;
}

int64_t half_taps(const FrontEndParams& params) {
  return params.taps / 2 + 1;
}

int32_t pools(const FrontEndParams& params) {
  return params.filters / kPoolFilters;
}

// The largest magnitudes of the filters of kPools pools, each a row of
// kTileSamples. As integers magnitudes are in order, NaN above all.
// `coefficients` are (half taps, filters of the pools), the middle one last.
template <int kPools>
void filter_tile(const FrontEndParams& params,
                 const float* samples,
                 const float* coefficients,
                 int32_t* magnitudes) {
  constexpr int kFilters = kPools * kPoolFilters;
  const int64_t half = half_taps(params), last = params.taps - 1;
  Vector<float> sums[kFilters][kTileVectors] = {};
  const auto add = [&](const Vector<float>(&values)[kTileVectors]) {
    for (int f = 0; f < kFilters; ++f) {
      const Vector<float> factor = splat(coefficients[f]);
      for (int v = 0; v < kTileVectors; ++v)
        sums[f][v] += factor * values[v];
    }
    coefficients += kFilters;
  };
  Vector<float> values[kTileVectors];
  for (int64_t j = 0; j + 1 < half; ++j) {
    for (int v = 0; v < kTileVectors; ++v)
      values[v] = load(samples + j + v * kLanes<float>) +
                  load(samples + last - j + v * kLanes<float>);
    add(values);
  }
  for (int v = 0; v < kTileVectors; ++v)
    values[v] = load(samples + half - 1 + v * kLanes<float>);
  add(values);
  for (int pool = 0; pool < kPools; ++pool)
    for (int v = 0; v < kTileVectors; ++v) {
      Vector<int32_t> most{};
      for (int f = 0; f < kPoolFilters; ++f)
        most = higher<int32_t>(most, reinterpret_cast<Vector<int32_t>>(
                                         sums[pool * kPoolFilters + f][v]) &
                                         0x7fffffff);
      store<int32_t>(magnitudes + pool * kTileSamples + v * kLanes<float>,
                     most);
    }
}

struct Affine {
  bool exists;
  float scale, shift;
};

Affine affine_of(const Normalisation& norm) {
  if (norm.weight == nullptr)
    return {false, 1, 0};
  const double scale =
      norm.weight[0] / __builtin_sqrt(norm.variance[0] + norm.eps);
  return {true, static_cast<float>(scale),
          static_cast<float>(norm.bias[0] - norm.mean[0] * scale)};
}

// `count` steps of a row of the output from the magnitudes of a tile.
void pool_tile(const int32_t* magnitudes,
               Affine affine,
               int64_t count,
               float* out) {
  int32_t most[kTileSteps];
  for (int i = 0; i < kTileSteps; ++i) {
    const int32_t* of = magnitudes + i * kPoolSteps;
    const int32_t first = of[0] > of[1] ? of[0] : of[1];
    most[i] = first > of[2] ? first : of[2];
  }
  Vector<float> value = reinterpret_cast<Vector<float>>(load(most));
  if (affine.exists)
    value = selu_of<float>(value * affine.scale + affine.shift);
  store_some<float>(out, value, static_cast<int32_t>(count));
}

template <int kPools>
void run_pools(const FrontEndParams& params,
               int32_t pool,
               const float* samples,
               const float* coefficients,
               Affine affine,
               int64_t count,
               float* out) {
  const int64_t row = front_end_steps(params);
  int32_t magnitudes[kPools * kTileSamples];
  for (int64_t step = 0; step < count; step += kTileSteps) {
    filter_tile<kPools>(params, samples + step * kPoolSteps, coefficients,
                        magnitudes);
    const int64_t left = count - step;
    for (int p = 0; p < kPools; ++p)
      pool_tile(magnitudes + p * kTileSamples, affine,
                left < kTileSteps ? left : kTileSteps,
                out + (pool + p) * row + step);
  }
}

}  // namespace

int64_t front_end_scratch_cpu(const FrontEndParams& params) {
  return (task_samples(params) + 15) / 16 * 16 +
         half_taps(params) * params.filters;
}

void front_end_cpu(const FrontEndParams& params,
                   int64_t begin,
                   int64_t end,
                   float* scratch) {
  const int64_t steps = front_end_steps(params), half = half_taps(params);
  const int64_t per_clip = front_end_tasks_per_clip(params);
  float* const samples = scratch;
  float* const coefficients = scratch + (task_samples(params) + 15) / 16 * 16;
  // (tile of pools, half taps, filters of the tile)
  const int32_t all = pools(params) * kPoolFilters;
  constexpr int32_t kTileFilters = kTilePools * kPoolFilters;
  float* to = coefficients;
  for (int32_t first = 0; first < all; first += kTileFilters) {
    const int32_t last =
        first + kTileFilters < all ? first + kTileFilters : all;
    for (int64_t j = 0; j < half; ++j)
      for (int32_t f = first; f < last; ++f)
        *to++ = params.coefficients[int64_t{f} * params.taps + j];
  }
  const Affine affine = affine_of(params.norm);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t clip = task / per_clip;
    const int64_t step = task % per_clip * kFrontEndSteps;
    const int64_t count =
        steps - step < kFrontEndSteps ? steps - step : kFrontEndSteps;
    const int64_t sample = step * kPoolSteps;
    const int64_t wanted = task_samples(params);
    const int64_t left = params.samples - sample;
    const int64_t copied = left < wanted ? left : wanted;
    __builtin_memcpy(samples, params.waveform + clip * params.samples + sample,
                     static_cast<size_t>(copied) * sizeof(float));
    __builtin_memset(samples + copied, 0,
                     static_cast<size_t>(wanted - copied) * sizeof(float));
    float* const out = params.out + clip * pools(params) * steps + step;
    const float* from = coefficients;
    int32_t pool = 0;
    for (; pool + kTilePools <= pools(params); pool += kTilePools) {
      run_pools<kTilePools>(params, pool, samples, from, affine, count, out);
      from += half * kTileFilters;
    }
    for (; pool < pools(params); ++pool) {
      run_pools<1>(params, pool, samples, from, affine, count, out);
      from += half * kPoolFilters;
    }
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
