// The gradient of a weight, by a block: a tile of 32 outputs times 16 inputs.
// Every warp has all of the tile and every 16th row, so that no row has to pass
// through shared memory; the sums of the warps meet there.
#pragma once

#include <cstdint>

#include "row_products.cuh"

namespace sparse_aasist {

constexpr int32_t kGradientThreads = 512;
constexpr int32_t kGradientWarps = kGradientThreads / 32;
constexpr int32_t kGradientOutputs = 8 * kQuad;
constexpr int32_t kGradientInputs = 4 * kQuad;
constexpr int32_t kGradientTile = kGradientOutputs * kGradientInputs;
static_assert(kGradientTile == kGradientThreads, "a thread ends with an entry");

// Of a warp: of its tile, one output behind the other, and of the bias.
struct GradientSums {
  float weight[kQuad][kQuad];
  float bias[kQuad];
};

constexpr int32_t kGradientRoom = kGradientTile + kGradientOutputs;

// A lane's sums of the rows of its warp.
template <bool kWhole>
__device__ __forceinline__ void sum_rows_of_warp(const LinearGradient& task,
                                                 int64_t batch,
                                                 int32_t output,
                                                 int32_t input,
                                                 GradientSums& sums) {
  constexpr int32_t kBatch = 8;
  struct Loaded {
    Quad<float> grad;
    Quad<float> row;
  };
  const int32_t warp = threadIdx.x / 32, count = task.count;
  const LanePlace lane = lane_place();
  output += lane.column * kQuad;
  input += lane.row * kQuad;
  const int32_t inputs = task.weight != nullptr ? task.inputs : 0;
  RowPlace place = row_place(warp, count);
  const RowPlace step = row_place(kGradientWarps, count);
  in_batches<kBatch>(
      int64_t{warp}, batch * count, int64_t{kGradientWarps},
      [&](int64_t) {
        const float* grad =
            at<float>(task.grad.values,
                      place.entry(task.grad.stride, task.outputs) + output);
        const float* row = at<float>(
            task.rows.values, place.entry(task.rows.stride, inputs) + input);
        place.clip += step.clip;
        place.i += step.i;
        if (place.i >= count) {
          place.i -= count;
          ++place.clip;
        }
        return Loaded{quad_from<kWhole>(grad, 1, task.outputs - output),
                      quad_from<kWhole>(row, 1, inputs - input)};
      },
      [&](int64_t, const Loaded& loaded) {
#pragma unroll
        for (int32_t a = 0; a < kQuad; ++a) {
          sums.bias[a] += loaded.grad.of[a];
#pragma unroll
          for (int32_t b = 0; b < kQuad; ++b)
            sums.weight[a][b] += loaded.grad.of[a] * loaded.row.of[b];
        }
      });
}

__device__ __forceinline__ void store_sums(const GradientSums& sums,
                                           float* room) {
  const LanePlace lane = lane_place();
  room += threadIdx.x / 32 * kGradientRoom;
#pragma unroll
  for (int32_t a = 0; a < kQuad; ++a) {
    Quad<float> quad;
#pragma unroll
    for (int32_t b = 0; b < kQuad; ++b)
      quad.of[b] = sums.weight[a][b];
    const int32_t output = lane.column * kQuad + a;
    store_row_quad(room + output * kGradientInputs + lane.row * kQuad, quad);
    if (lane.row == 0)
      room[kGradientTile + output] = sums.bias[a];
  }
}

// Entry `i` of a tile, or of the bias behind it.
__device__ __forceinline__ float sum_of_warps(const float* room, int32_t i) {
  float sum = 0;
#pragma unroll
  for (int32_t warp = 0; warp < kGradientWarps; ++warp)
    sum += room[warp * kGradientRoom + i];
  return sum;
}

// The block's tile. `room` is for the sums of all warps; the block has to meet
// before it is used again.
__device__ __forceinline__ void weight_gradient(const LinearGradient& task,
                                                int64_t batch,
                                                int32_t output,
                                                int32_t input,
                                                float* room) {
  GradientSums sums{};
  if (are_quads(task.grad.values, task.grad.stride, task.outputs) &&
      are_quads(task.rows.values, task.rows.stride, task.inputs))
    sum_rows_of_warp<true>(task, batch, output, input, sums);
  else
    sum_rows_of_warp<false>(task, batch, output, input, sums);
  store_sums(sums, room);
  __syncthreads();
  const int32_t thread = threadIdx.x;
  const int32_t o = output + thread / kGradientInputs;
  const int32_t i = input + thread % kGradientInputs;
  if (task.weight != nullptr && o < task.outputs && i < task.inputs)
    at<float>(task.weight, int64_t{o} * task.inputs + i)[0] =
        sum_of_warps(room, thread);
  const int32_t bias = output + thread;
  if (task.bias != nullptr && input == 0 && thread < kGradientOutputs &&
      bias < task.outputs)
    at<float>(task.bias, bias)[0] = sum_of_warps(room, kGradientTile + thread);
}

}  // namespace sparse_aasist
