// The gradient of a convolution's weights, on tensor cores: products of
// gradient rows and source rows, summed over all steps. A block goes down a
// stretch of time as residual_convolution.cuh does; a warp owns 32 outputs of
// 16 inputs, all taps of them, and where that leaves warps over, a part of the
// steps. Every warp writes its sums once; the last kernel adds them in order.
#pragma once

#include "residual_convolution.cuh"

namespace sparse_aasist {

constexpr int64_t kMostGradientBlocks = 264;

template <class GradientRows, class SourceRows, int kHigh_>
struct GradientShape {
  static constexpr int kHigh = kHigh_;
  static constexpr int kOutputs = GradientRows::kChannels;
  static constexpr int kInputs = SourceRows::kChannels;
  static constexpr int kRoom = 128;
  // As in ConvolutionShape; the products take whole 16 steps, the last two of
  // which are zero.
  static constexpr int kSteps = kRoom - 2;
  static constexpr int kWarpBlocks = kOutputs / 32 * (kInputs / 16);
  static constexpr int kShares = 8 / kWarpBlocks;  // of the steps
  static constexpr int kEntries = kHigh * 3 * kOutputs * kInputs;
  using GradientFill = RowFill<GradientRows, kRoom, kWalkThreads>;
  using SourceFill = RowFill<SourceRows, kRoom, kWalkThreads>;
};

inline unsigned gradient_blocks(const Walk& walk) {
  return blocks_for(walk.items(), kMostGradientBlocks);
}

template <class Shape>
using GradientSums = float[Shape::kHigh][3][2][2][4];

// sums += gradient^T b for 16 steps of one tap in height, the three taps in
// time of which are in b; `gradient` is the row of the first step.
template <class Sums>
__device__ __forceinline__ void multiply_steps(Sums& sums,
                                               int high,
                                               const char* gradient,
                                               int32_t gradient_stride,
                                               const uint32_t (&b)[3][4]) {
  const int32_t lane = threadIdx.x % 32;
  const char* const own = gradient +
                          (lane / 16 * 8 + lane % 8) * gradient_stride +
                          lane / 8 % 2 * 16;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    uint32_t a[4];
    load_transposed(a, own + m * 32);
#pragma unroll
    for (int tap = 0; tap < 3; ++tap)
#pragma unroll
      for (int n = 0; n < 2; ++n)
        multiply_add(sums[high][tap][m][n], a, b[tap][2 * n],
                     b[tap][2 * n + 1]);
  }
}

// What lies behind a source row meets zeros, and must not be infinite.
template <class Shape>
__device__ __forceinline__ void clear_behind_rows(char* source_rooms) {
  using Fill = typename Shape::SourceFill;
  for (int32_t slot = 0; slot < 2; ++slot) {
    char* const behind =
        source_rooms + slot * Fill::kBytes + Shape::kRoom * Fill::kStride;
    for (int32_t i = threadIdx.x; i < Fill::kStride; i += kWalkThreads)
      reinterpret_cast<uint16_t*>(behind)[i] = 0;
  }
}

template <class Shape>
__device__ __forceinline__ void write_sums(const GradientSums<Shape>& sums,
                                           int32_t output,
                                           int32_t input,
                                           float* to) {
  const int32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int high = 0; high < Shape::kHigh; ++high)
#pragma unroll
    for (int tap = 0; tap < 3; ++tap)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int32_t o = output + m * 16 + lane / 4 + i / 2 * 8;
            const int32_t c = input + n * 8 + lane % 4 * 2 + i % 2;
            to[((high * 3 + tap) * Shape::kOutputs + o) * Shape::kInputs + c] =
                sums[high][tap][m][n][i];
          }
}

template <class Shape, class GradientRows, class SourceRows>
__global__ void __launch_bounds__(kWalkThreads, 1)
    residual_gradient_kernel(const __grid_constant__ GradientRows gradients,
                             const __grid_constant__ SourceRows source,
                             const __grid_constant__ Walk walk,
                             float* partials) {
  using GradientFill = typename Shape::GradientFill;
  using SourceFill = typename Shape::SourceFill;
  SPARSE_AASIST_DYNAMIC_SHARED(char, rooms);  // 3 of gradients, 2 of the source
  char* const source_rooms = rooms + 3 * GradientFill::kBytes;
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t own = warp % Shape::kWarpBlocks;
  const int32_t share = warp / Shape::kWarpBlocks;
  const int32_t output = own % (Shape::kOutputs / 32) * 32;
  const int32_t input = own / (Shape::kOutputs / 32) * 16;
  GradientFill gradient_fill(gradients, walk.rows);
  SourceFill source_fill(source, walk.source_rows);
  GradientSums<Shape> sums = {};
  clear_behind_rows<Shape>(source_rooms);

  for (int32_t index = blockIdx.x; index < walk.items(); index += gridDim.x) {
    const Walk::Item item = walk.item(index, Shape::kSteps);
    const int32_t last = item.end + Shape::kHigh - 2;
    __syncthreads();  // the item before has read its last row
    const auto fetch = [&](int32_t row) {
      if (row < item.end)
        gradient_fill.fetch({item.clip, row, item.first}, item.past);
      if (row <= last)
        source_fill.fetch({item.clip, row + walk.shift, item.first - 1},
                          walk.steps);
    };
    const auto store = [&](int32_t row) {
      if (row < item.end)
        gradient_fill.store(item.past, rooms + row % 3 * GradientFill::kBytes);
      if (row <= last)
        source_fill.store(walk.steps,
                          source_rooms + row % 2 * SourceFill::kBytes);
    };
    fetch(item.begin);
    store(item.begin);
    for (int32_t row = item.begin; row <= last; ++row) {
      __syncthreads();
      fetch(row + 1);
      const char* const source_room =
          source_rooms + row % 2 * SourceFill::kBytes;
      const char* const newer = rooms + row % 3 * GradientFill::kBytes;
      const char* const older = rooms + (row + 2) % 3 * GradientFill::kBytes;
#pragma unroll 1
      for (int32_t k16 = share; k16 < Shape::kRoom / 16;
           k16 += Shape::kShares) {
        uint32_t b[3][4];
#pragma unroll
        for (int tap = 0; tap < 3; ++tap)
          load_transposed(
              b[tap], source_room +
                          (k16 * 16 + tap + lane % 16) * SourceFill::kStride +
                          input * 2 + lane / 16 * 16);
        const int32_t at = k16 * 16 * GradientFill::kStride + output * 2;
        if (row < item.end)
          multiply_steps(sums, 0, newer + at, GradientFill::kStride, b);
        if (Shape::kHigh == 2 && row > item.begin)
          multiply_steps(sums, Shape::kHigh - 1, older + at,
                         GradientFill::kStride, b);
      }
      store(row + 1);
    }
  }

  write_sums<Shape>(
      sums, output, input,
      partials + (static_cast<int64_t>(blockIdx.x) * Shape::kShares + share) *
                     Shape::kEntries);
}

// to (outputs, inputs, high, 3) = the sum of rows of partials
// (rows, high, 3, outputs, padded inputs).
static __global__ void residual_gradient_sum_kernel(const float* partials,
                                                    int64_t rows,
                                                    int32_t high,
                                                    int32_t outputs,
                                                    int32_t inputs,
                                                    int32_t padded,
                                                    float* to) {
  constexpr int kSlices = 8, kColumns = 32;
  SPARSE_AASIST_SHARED(float, slices, kSlices* kColumns);
  const int32_t entries = high * 3 * outputs * padded;
  const int32_t column = threadIdx.x % kColumns, slice = threadIdx.x / kColumns;
  for (int32_t first = blockIdx.x * kColumns; first < entries;
       first += gridDim.x * kColumns) {
    const int32_t entry = first + column;
    float sum = 0.0f;
    for (int64_t row = slice; row < rows; row += kSlices)
      sum += partials[row * entries + entry];
    slices[slice * kColumns + column] = sum;
    __syncthreads();
    const int32_t input = entry % padded;
    if (slice == 0 && input < inputs) {
      for (int i = 1; i < kSlices; ++i)
        sum += slices[i * kColumns + column];
      const int32_t output = entry / padded % outputs;
      const int32_t tap = entry / padded / outputs;  // of high * 3
      to[(output * inputs + input) * high * 3 + tap] = sum;
    }
    __syncthreads();
  }
}

// The shortcut's rows are those of the result.
template <class Shape>
Walk gradient_walk(const ResidualBfloat16Params& params, Height height) {
  Walk walk = walk_over(params, height, Shape::kSteps);
  if (Shape::kHigh == 1)
    walk.source_rows = walk.rows;
  return walk;
}

template <int kHigh, class GradientRows, class SourceRows>
int64_t gradient_partials(const ResidualBfloat16Params& params, Height height) {
  using Shape = GradientShape<GradientRows, SourceRows, kHigh>;
  return int64_t{gradient_blocks(gradient_walk<Shape>(params, height))} *
         Shape::kShares * Shape::kEntries;
}

// `inputs` are those that are not padding.
template <int kHigh, class GradientRows, class SourceRows>
const char* launch_gradient(const GradientRows& gradients,
                            const SourceRows& source,
                            const ResidualBfloat16Params& params,
                            Height height,
                            int32_t inputs,
                            float* partials,
                            float* to,
                            void* stream) {
  using Shape = GradientShape<GradientRows, SourceRows, kHigh>;
  const Walk walk = gradient_walk<Shape>(params, height);
  constexpr size_t kBytes =
      3 * Shape::GradientFill::kBytes + 2 * Shape::SourceFill::kBytes;
  const auto kernel =
      &residual_gradient_kernel<Shape, GradientRows, SourceRows>;
  if (const char* error = allow_dynamic_shared(kernel, kBytes))
    return error;
  if (const char* error = SPARSE_AASIST_LAUNCH(
          kernel, gradient_blocks(walk), kWalkThreads, kBytes, stream,
          gradients, source, walk, partials))
    return error;
  return SPARSE_AASIST_LAUNCH(
      residual_gradient_sum_kernel, blocks_for((Shape::kEntries + 31) / 32),
      256, 0, stream, partials, int64_t{gradient_blocks(walk)} * Shape::kShares,
      kHigh, Shape::kOutputs, inputs, Shape::kInputs, to);
}

}  // namespace sparse_aasist
