// Batch normalisation of rows with SELU, by a block: 8 columns, which are a
// sector of memory, of all rows.
#pragma once

#include <cmath>
#include <cstdint>

#include "row_access.cuh"
#include "row_batches.cuh"
#include "row_passes.h"
#include "selu.cuh"

namespace sparse_aasist {

constexpr int32_t kNormThreads = 512;
constexpr int32_t kNormWarps = kNormThreads / 32;
constexpr int32_t kNormColumns = 8;
constexpr int32_t kNormGroups = kNormThreads / kNormColumns;  // of rows
constexpr int32_t kNormBatch = 16;  // with the groups, some 1000 rows at once
constexpr int32_t kNormRoom = 2 * kNormWarps * kNormColumns;

// The sums over all threads of a column, in each of them. The block has to
// meet before `room` is used again.
template <int32_t kSums>
__device__ __forceinline__ void sum_columns_of_block(double (&sums)[kSums],
                                                     double* room) {
  static_assert(kSums * kNormWarps * kNormColumns <= kNormRoom, "room");
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t column = lane % kNormColumns, part = lane / kNormColumns;
  const auto over_lanes = [](double sum) {
    sum += __shfl_xor_sync(kAllLanes, sum, kNormColumns);
    return sum + __shfl_xor_sync(kAllLanes, sum, 2 * kNormColumns);
  };
  constexpr int32_t kParts = 32 / kNormColumns;
  static_assert(kParts == 4, "lanes of a column");
#pragma unroll
  for (int32_t s = 0; s < kSums; ++s) {
    const double sum = over_lanes(sums[s]);
    if (part == 0)
      room[(s * kNormWarps + warp) * kNormColumns + column] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int32_t s = 0; s < kSums; ++s) {
    double sum = 0;
#pragma unroll
    for (int32_t w = 0; w < kNormWarps; w += kParts)
      sum += room[(s * kNormWarps + w + part) * kNormColumns + column];
    sums[s] = over_lanes(sum);
  }
}

// Calls use(entry, load(entry)) for what a thread has of column c.
template <class Load, class Use>
__device__ __forceinline__ void for_rows_of_thread(const NormalisedRows& task,
                                                   int32_t c,
                                                   const Load& load,
                                                   const Use& use) {
  if (c >= task.width)
    return;
  const int64_t width = task.width;
  in_batches<kNormBatch>(
      int64_t{threadIdx.x} / kNormColumns, task.rows, int64_t{kNormGroups},
      [&](int64_t r) { return load(r * width + c); },
      [&](int64_t r, const auto& loaded) { use(r * width + c, loaded); });
}

// As it was written, so that both passes see the same values.
struct NormalisedColumn {
  float mean;
  float inverse;  // of the deviation
  float weight;
  float bias;

  __device__ __forceinline__ float normalised(float x) const {
    return (x - mean) * inverse;
  }
  __device__ __forceinline__ float affine(float normalised) const {
    return normalised * weight + bias;
  }
};

__device__ __forceinline__ NormalisedColumn
column_of(const NormalisedRows& task, int32_t c, float mean, float variance) {
  return {mean, static_cast<float>(1 / sqrt(variance + task.eps)),
          value_at(task.weight, c), value_at(task.bias, c)};
}

// `room` is for both sums, of the mean and of the variance, one behind the
// other.
__device__ __forceinline__ void normalise_columns(const NormalisedRows& task,
                                                  int32_t first,
                                                  double* room) {
  const int32_t c = first + threadIdx.x % kNormColumns;
  const double rows = static_cast<double>(task.rows);
  const auto x = [&](int64_t entry) { return value_at(task.x, entry); };
  double sums[1] = {};
  for_rows_of_thread(task, c, x,
                     [&](int64_t, float value) { sums[0] += value; });
  sum_columns_of_block(sums, room);
  const double mean = sums[0] / rows;
  sums[0] = 0;
  for_rows_of_thread(task, c, x, [&](int64_t, float value) {
    const double apart = value - mean;
    sums[0] += apart * apart;
  });
  sum_columns_of_block(sums, room + kNormRoom / 2);
  if (c >= task.width)
    return;
  const float variance = static_cast<float>(sums[0] / rows);
  if (threadIdx.x < kNormColumns) {
    *at<float>(task.mean, c) = static_cast<float>(mean);
    *at<float>(task.variance, c) = variance;
  }
  const NormalisedColumn column =
      column_of(task, c, static_cast<float>(mean), variance);
  for_rows_of_thread(task, c, x, [&](int64_t entry, float value) {
    *at<float>(task.out, entry) = selu(column.affine(column.normalised(value)));
  });
}

__device__ __forceinline__ float selu_slope(float x) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  constexpr float kBelow = static_cast<float>(kSeluScale * kSeluAlpha);
  return x > 0 ? kScale : kBelow * std::exp(x);
}

__device__ __forceinline__ void normalise_columns_backward(
    const NormalisedRows& task,
    int32_t first,
    double* room) {
  struct Loaded {
    float x;
    float grad;
  };
  // What it is after the normalisation; its gradient behind it.
  struct Value {
    float normalised;
    float grad;
  };
  const int32_t c = first + threadIdx.x % kNormColumns;
  NormalisedColumn column{};
  if (c < task.width)
    column =
        column_of(task, c, value_at(task.mean, c), value_at(task.variance, c));
  const auto load = [&](int64_t entry) {
    return Loaded{value_at(task.x, entry), value_at(task.grad, entry)};
  };
  const auto value_of = [&](const Loaded& loaded) {
    const float normalised = column.normalised(loaded.x);
    return Value{normalised,
                 loaded.grad * selu_slope(column.affine(normalised))};
  };
  double sums[2] = {};
  for_rows_of_thread(task, c, load, [&](int64_t, const Loaded& loaded) {
    const Value value = value_of(loaded);
    sums[0] += value.grad;
    sums[1] += static_cast<double>(value.grad) * value.normalised;
  });
  sum_columns_of_block(sums, room);
  if (c >= task.width)
    return;
  if (threadIdx.x < kNormColumns) {
    *at<float>(task.dbias, c) = static_cast<float>(sums[0]);
    *at<float>(task.dweight, c) = static_cast<float>(sums[1]);
    for (void* lost : task.lost)
      if (lost != nullptr)
        *at<float>(lost, c) = 0;
  }
  const double rows = static_cast<double>(task.rows);
  const float mean = static_cast<float>(sums[0] / rows);
  const float slope = static_cast<float>(sums[1] / rows);
  const float scale = column.weight * column.inverse;
  for_rows_of_thread(task, c, load, [&](int64_t entry, const Loaded& loaded) {
    const Value value = value_of(loaded);
    *at<float>(task.dx, entry) =
        scale * (value.grad - mean - value.normalised * slope);
  });
}

}  // namespace sparse_aasist
