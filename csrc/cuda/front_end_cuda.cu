// front_end on a GPU, in one launch, in float32 without tensor cores.
//
// The filters are symmetric, so that samples at the same distance from the
// middle are added before they are multiplied. A block has 4 pools of filters
// for a stretch of a clip; a thread has all 12 filters times 9 neighbouring
// samples in registers, so that what it adds and loads is shared by many
// products: a pair of taps is 108 of them to 9 sums and, from shared memory, 12
// coefficients and 4 samples. Samples are 9 words apart between lanes, in banks
// of their own; coefficients are the same for all lanes and come 16 bytes at a
// time.
#include <limits>

#include "batch_norm.cuh"
#include "float_format.h"
#include "front_end.h"
#include "launch.h"
#include "row_access.cuh"
#include "selu.cuh"

namespace sparse_aasist {
namespace {

constexpr int32_t kThreads = 128;
constexpr int32_t kThreadSteps = 3;
constexpr int32_t kThreadSamples = kThreadSteps * kPoolSteps;
constexpr int32_t kTileSteps = kThreads * kThreadSteps;
constexpr int32_t kTileSamples = kThreads * kThreadSamples;
constexpr int32_t kTilePools = 4;
constexpr int32_t kTileFilters = kTilePools * kPoolFilters;
// Pairs of taps between loads of samples into registers, and into shared
// memory.
constexpr int32_t kChunk = 8;
constexpr int32_t kStage = 64;
static_assert(kStage % kChunk == 0, "only the last stage ends within a chunk");
static_assert(kChunk * kTileFilters % kQuad == 0, "coefficients come in fours");

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Sums = float[kTileFilters][kThreadSamples];

// What a block has in shared memory of a stage: up to kStage pairs of taps and
// the tap behind them, in the end the middle one.
struct StageRoom {
  Quad<float>* coefficients;  // (kStage + 1, kTileFilters)
  float* before;  // under the first taps of pairs: kTileSamples + kStage + 1
  float* after;   // under the last ones: kTileSamples + kStage - 1
};

// What a block computes: from this step and pool of filters on.
struct FrontEndTile {
  int64_t clip;
  int64_t step;
  int32_t pool;
};

struct Tiling {
  int64_t per_row;  // of steps
  int64_t per_clip;
};

Tiling tiling(const FrontEndParams& params) {
  const int64_t per_row =
      (front_end_steps(params) + kTileSteps - 1) / kTileSteps;
  const int32_t pools = params.filters / kPoolFilters;
  return {per_row, per_row * ((pools + kTilePools - 1) / kTilePools)};
}

// The coefficient of both taps of a pair; NaN where they differ, so that a
// filter that is not symmetric shows.
__device__ __forceinline__ float coefficient_at(const FrontEndParams& params,
                                                int32_t filter,
                                                int32_t tap) {
  if (filter >= params.filters)
    return 0;
  const float* of = params.coefficients + int64_t{filter} * params.taps;
  return of[tap] == of[params.taps - 1 - tap] ? of[tap] : kNaN;
}

// Brings `count` samples into shared memory, of which `left` exist; 0 for the
// others.
__device__ __forceinline__ void stage_samples(const float* from,
                                              int64_t left,
                                              int32_t count,
                                              float* to) {
  const int32_t inside = left < count ? static_cast<int32_t>(left) : count;
  for (int32_t i = threadIdx.x; i < count; i += kThreads)
    to[i] = i < inside ? from[i] : 0;
}

// `count` pairs of taps from `first` on, and the tap behind them.
__device__ __forceinline__ void stage(const FrontEndParams& params,
                                      const FrontEndTile& tile,
                                      int32_t first,
                                      int32_t count,
                                      const StageRoom& room) {
  float* const coefficients = room.coefficients->of;
  for (int32_t i = threadIdx.x; i < kTileFilters * (kStage + 1);
       i += kThreads) {
    const int32_t f = i / (kStage + 1), j = i % (kStage + 1);
    if (j <= count)
      coefficients[j * kTileFilters + f] =
          coefficient_at(params, tile.pool * kPoolFilters + f, first + j);
  }
  const int64_t sample = tile.step * kPoolSteps;
  const int64_t left = params.samples - sample;
  const float* from = params.waveform + tile.clip * params.samples + sample;
  stage_samples(from + first, left - first, kTileSamples + count + 1,
                room.before);
  const int32_t after = params.taps - first - count;
  stage_samples(from + after, left - after, kTileSamples + count - 1,
                room.after);
}

__device__ __forceinline__ void add_products(const float* factors,
                                             const float* values,
                                             Sums& sums) {
#pragma unroll
  for (int32_t f = 0; f < kTileFilters; ++f)
#pragma unroll
    for (int32_t s = 0; s < kThreadSamples; ++s)
      sums[f][s] += factors[f] * values[s];
}

// Adds kChunk pairs of taps: `before` and `after` are the lowest samples.
__device__ __forceinline__ void add_chunk(const Quad<float>* coefficients,
                                          const float* before,
                                          const float* after,
                                          Sums& sums) {
  constexpr int32_t kSamples = kThreadSamples + kChunk - 1;
  float left[kSamples], right[kSamples];
#pragma unroll
  for (int32_t i = 0; i < kSamples; ++i) {
    left[i] = before[i];
    right[i] = after[i];
  }
#pragma unroll
  for (int32_t j = 0; j < kChunk; ++j) {
    float factors[kTileFilters], values[kThreadSamples];
#pragma unroll
    for (int32_t f = 0; f < kTileFilters; ++f) {
      const int32_t i = j * kTileFilters + f;
      factors[f] = coefficients[i / kQuad].of[i % kQuad];
    }
#pragma unroll
    for (int32_t s = 0; s < kThreadSamples; ++s)
      values[s] = left[s + j] + right[s + kChunk - 1 - j];
    add_products(factors, values, sums);
  }
}

// Adds `count` pairs of taps, but for a rest of fewer than kChunk of them.
__device__ __forceinline__ void add_chunks(const StageRoom& room,
                                           int32_t count,
                                           Sums& sums) {
  const Quad<float>* coefficients = room.coefficients;
  const float* before = room.before + threadIdx.x * kThreadSamples;
  const float* after = room.after + threadIdx.x * kThreadSamples + count;
#pragma unroll 1
  for (int32_t left = count; left >= kChunk; left -= kChunk) {
    after -= kChunk;
    add_chunk(coefficients, before, after, sums);
    coefficients += kChunk * kTileFilters / kQuad;
    before += kChunk;
  }
}

// Adds that rest and the tap in the middle.
__device__ __forceinline__ void add_rest(const StageRoom& room,
                                         int32_t count,
                                         Sums& sums) {
  const float* const before = room.before + threadIdx.x * kThreadSamples;
  const float* const after = room.after + threadIdx.x * kThreadSamples;
#pragma unroll 1
  for (int32_t j = count / kChunk * kChunk; j <= count; ++j) {
    float factors[kTileFilters], values[kThreadSamples];
#pragma unroll
    for (int32_t f = 0; f < kTileFilters; ++f)
      factors[f] = room.coefficients->of[j * kTileFilters + f];
#pragma unroll
    for (int32_t s = 0; s < kThreadSamples; ++s) {
      values[s] = before[j + s];
      if (j < count)
        values[s] += after[count - 1 - j + s];
    }
    add_products(factors, values, sums);
  }
}

// As integers, magnitudes are in the order of their values, NaN above all.
__device__ __forceinline__ float largest(const Sums& sums,
                                         int32_t pool,
                                         int32_t step) {
  int32_t most = 0;
#pragma unroll
  for (int32_t f = 0; f < kPoolFilters; ++f)
#pragma unroll
    for (int32_t s = 0; s < kPoolSteps; ++s) {
      const float sum = sums[pool * kPoolFilters + f][step * kPoolSteps + s];
      const int32_t magnitude = bit_cast<int32_t>(sum) & 0x7fffffff;
      most = magnitude > most ? magnitude : most;
    }
  return bit_cast<float>(most);
}

__device__ __forceinline__ void store(const FrontEndParams& params,
                                      const FrontEndTile& tile,
                                      int64_t steps,
                                      const Sums& sums) {
  const bool has_norm = params.norm.weight != nullptr;
  const Affine affine = has_norm ? affine_of(params.norm, 0) : Affine{1, 0};
  const int32_t pools = params.filters / kPoolFilters;
  const int64_t first = tile.step + threadIdx.x * kThreadSteps;
#pragma unroll
  for (int32_t p = 0; p < kTilePools; ++p) {
    if (tile.pool + p >= pools)
      break;
    float* out =
        params.out + (tile.clip * pools + tile.pool + p) * steps + first;
#pragma unroll
    for (int32_t i = 0; i < kThreadSteps; ++i) {
      const float value = largest(sums, p, i);
      if (first + i < steps)
        out[i] = has_norm ? selu(value * affine.scale + affine.shift) : value;
    }
  }
}

__global__ void __launch_bounds__(kThreads, 3)
    front_end_kernel(const __grid_constant__ FrontEndParams params,
                     int64_t steps,
                     Tiling tiling) {
  SPARSE_AASIST_SHARED(Quad<float>, coefficients,
                       ((kStage + 1) * kTileFilters + kQuad - 1) / kQuad);
  SPARSE_AASIST_SHARED(float, before_room, kTileSamples + kStage + 1);
  SPARSE_AASIST_SHARED(float, after_room, kTileSamples + kStage - 1);
  const StageRoom room = {coefficients, before_room, after_room};
  const int32_t pairs = params.taps / 2;
  for (int64_t i = blockIdx.x; i < params.batch * tiling.per_clip;
       i += gridDim.x) {
    const int64_t in_clip = i % tiling.per_clip;
    const FrontEndTile tile = {
        i / tiling.per_clip, in_clip % tiling.per_row * kTileSteps,
        static_cast<int32_t>(in_clip / tiling.per_row) * kTilePools};
    Sums sums = {};
    for (int32_t first = 0;; first += kStage) {
      const int32_t left = pairs - first;
      const int32_t count = left < kStage ? left : kStage;
      __syncthreads();
      stage(params, tile, first, count, room);
      __syncthreads();
      add_chunks(room, count, sums);
      if (count == left) {
        add_rest(room, count, sums);
        break;
      }
    }
    store(params, tile, steps, sums);
  }
}

}  // namespace

const char* front_end_cuda(const FrontEndParams& params, void* stream) {
  const Tiling tiles = tiling(params);
  const int64_t count = params.batch * tiles.per_clip;
  if (count == 0)
    return nullptr;
  return SPARSE_AASIST_LAUNCH(front_end_kernel, blocks_for(count), kThreads, 0,
                              stream, params, front_end_steps(params), tiles);
}

}  // namespace sparse_aasist
