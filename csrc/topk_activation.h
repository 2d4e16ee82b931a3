// topk_activation: keep the k highest values of every row, zero the rest.
// Parameters and launchers, free of torch.
#pragma once

#include <cstdint>

#include "order_key.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kMaxDim = 131072;

struct TopkActivationParams {
  const void* x;     // (rows, dim), rows x_stride elements apart
  int64_t x_stride;  // elements
  int64_t rows;
  int32_t dim;  // 1 .. kMaxDim
  int32_t k;    // 1 .. dim
  RankBy by;
  FloatFormat format;  // of x, y and values
  void* y;             // (rows, dim), contiguous: kept values, else 0; or null
  void* values;        // (rows, k), contiguous, in order of indices; or null
  // (rows, k), contiguous, ascending; or null, as values. Where relu made a
  // kept value zero, so that no gradient passes, the complement ~index stands.
  int32_t* indices;
};

struct TopkActivationBackwardParams {
  const void* grad;         // (rows, dim), any strides; or null
  int64_t grad_row_stride;  // elements
  int64_t grad_dim_stride;  // elements
  const void* grad_values;  // (rows, k), contiguous; or null
  const int32_t* indices;   // (rows, k), contiguous, as the forward left them
  int64_t rows;
  int32_t dim;
  int32_t k;
  FloatFormat format;  // of both gradients and dx
  void* dx;            // (rows, dim), contiguous
};

// Rows [row_begin, row_end), with scratch of topk_scratch_size() (cpu/).
SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    void topk_activation_cpu(const TopkActivationParams& params,
                             int64_t row_begin,
                             int64_t row_end,
                             void* scratch);
    void topk_activation_backward_cpu(
        const TopkActivationBackwardParams& params,
        int64_t row_begin,
        int64_t row_end);)

// All rows on `stream` (a cudaStream_t) of the current device; nullptr, or the
// reason why the launch failed.
const char* topk_activation_cuda(const TopkActivationParams& params,
                                 void* stream);
const char* topk_activation_backward_cuda(
    const TopkActivationBackwardParams& params,
    void* stream);

}  // namespace sparse_aasist
