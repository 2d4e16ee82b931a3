// Sums over all positions of channels-last values, by channel, of two kinds. A
// block writes one row of partials (blocks, 2, channels); the rows are added in
// order, in float64.
#pragma once

#include "residual_middle.cuh"

namespace sparse_aasist {

constexpr int kSumThreads = 256;
constexpr int64_t kMostSumBlocks = 528;

// A tensor's values, and their squares.
template <int kChannels_>
struct TensorValues {
  static constexpr int kChannels = kChannels_;
  static constexpr int kWidth = kChannels < kOctet ? kChannels : kOctet;
  const uint16_t* data;
  Image image;

  struct Lane {};
  __device__ Lane lane(int32_t) const { return {}; }
  __device__ void make(const Lane&,
                       const Position& at,
                       int32_t channel,
                       float (&to)[kWidth]) const {
    if constexpr (kWidth == kOctet)
      unpack(load_channels<kOctet>(data + image.offset(at, channel)), to);
    else
      to[0] = low_bfloat16(data[image.offset(at, channel)]);
  }
};

// The middle of a block with one input channel, less its bias.
struct FirstMiddleValues {
  static constexpr int kChannels = FirstMiddle::kChannels;
  static constexpr int kWidth = kOctet;
  FirstMiddle middle;

  using Lane = FirstMiddle::Lane<kOctet>;
  __device__ Lane lane(int32_t channel) const {
    Lane lane = middle.lane<kOctet>(channel);
    for (float& bias : lane.bias)
      bias = 0.0f;
    return lane;
  }
  __device__ void make(const Lane& lane,
                       const Position& at,
                       int32_t,
                       float (&to)[kOctet]) const {
    middle.make(lane, middle.fetch<kOctet>(at, 0), to);
  }
};

template <class Values>
__global__ void __launch_bounds__(kSumThreads)
    residual_sums_kernel(const __grid_constant__ Values values,
                         int64_t batch,
                         int32_t height,
                         int32_t steps,
                         float* partials) {
  constexpr int kWidth = Values::kWidth;
  constexpr int kLanes = Values::kChannels / kWidth;  // that share a position
  SPARSE_AASIST_SHARED(float, shared, kSumThreads * 2 * kWidth);
  const int32_t thread = threadIdx.x;
  const int32_t channel = thread % kLanes * kWidth;
  const typename Values::Lane lane = values.lane(channel);
  float sums[2 * kWidth] = {};
  for (int64_t row = blockIdx.x; row < batch * height; row += gridDim.x) {
    Position at = {static_cast<int32_t>(row / height),
                   static_cast<int32_t>(row % height), 0};
    for (at.step = thread / kLanes; at.step < steps;
         at.step += kSumThreads / kLanes) {
      float value[kWidth];
      values.make(lane, at, channel, value);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        sums[i] += value[i];
        sums[kWidth + i] += value[i] * value[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * kWidth; ++i)
    shared[i * kSumThreads + thread] = sums[i];
  __syncthreads();
  if (thread >= 2 * Values::kChannels)
    return;
  const int32_t kind = thread / Values::kChannels;
  const int32_t of = thread % Values::kChannels;
  const float* const own =
      shared + (kind * kWidth + of % kWidth) * kSumThreads + of / kWidth;
  float sum = 0.0f;
  for (int32_t i = 0; i < kSumThreads; i += kLanes)
    sum += own[i];
  partials[static_cast<int64_t>(blockIdx.x) * 2 * Values::kChannels + thread] =
      sum;
}

inline unsigned sum_blocks(int64_t rows) {
  return blocks_for(rows, kMostSumBlocks);
}

template <class Values>
const char* launch_sums(const Values& values,
                        int64_t batch,
                        int32_t height,
                        int64_t steps,
                        float* partials,
                        void* stream) {
  return SPARSE_AASIST_LAUNCH(
      (residual_sums_kernel<Values>), sum_blocks(batch * height), kSumThreads,
      0, stream, values, batch, height, static_cast<int32_t>(steps), partials);
}

// Rows of partials, and where they are.
struct PartialSums {
  const float* data;
  int32_t rows;
  int32_t channels;
};

constexpr int kTotalThreads = 128;

// The sum of a kind for a channel, by all threads of a block, known to each.
__device__ inline double total(const PartialSums& of,
                               int32_t kind,
                               int32_t channel) {
  SPARSE_AASIST_SHARED(double, shared, kTotalThreads);
  double sum = 0.0;
  for (int32_t row = threadIdx.x; row < of.rows; row += kTotalThreads)
    sum += static_cast<double>(
        of.data[(2 * static_cast<int64_t>(row) + kind) * of.channels +
                channel]);
  __syncthreads();  // shared may still be read for the sum before
  shared[threadIdx.x] = sum;
  __syncthreads();
  sum = 0.0;
#pragma unroll 4
  for (int i = 0; i < kTotalThreads; ++i)
    sum += shared[i];
  return sum;
}

}  // namespace sparse_aasist
