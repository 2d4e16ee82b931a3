// topk_linear: a linear layer on the k highest values of every row.
// Parameters and launchers, free of torch.
#pragma once

#include <cstdint>

#include "simd_level.h"
#include "topk_activation.h"

namespace sparse_aasist {

constexpr int32_t kMaxClasses = 1024;

// All tensors but topk.x are contiguous, and all have the format of `topk`.
// Products and sums are float64, rounded once at the end: the order of
// summation, which differs between backends, hardly ever shows.
struct TopkLinearParams {
  TopkActivationParams topk;  // y may be null; values and indices may not
  const void* weight;         // (classes, dim)
  const void* bias;           // (classes)
  const void* scale;          // (rows, dim), factor on the kept values; or null
  void* out;                  // (rows, classes)
  int32_t classes;
};

struct TopkLinearBackwardParams {
  // indices: those of the forward; grad and its strides: of y, or null;
  // grad_values: null.
  TopkActivationBackwardParams topk;
  // dx may be null.
  const void* grad_out;  // (rows, classes), contiguous
  const void* values;    // (rows, k), contiguous, as the forward left them
  const void* weight;    // (classes, dim), contiguous
  const void* scale;     // (rows, dim), contiguous; or null
  void* dweight;         // (classes, dim), contiguous; or null
  void* dbias;           // (classes); or null, as dweight
  int32_t classes;
  double* partials;  // CUDA only: topk_linear_partials() float64
};

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Rows [row_begin, row_end), with scratch of topk_scratch_size().
    void topk_linear_cpu(const TopkLinearParams& params,
                         int64_t row_begin,
                         int64_t row_end,
                         void* scratch);
    // dx of rows [row_begin, row_end).
    void topk_linear_backward_rows_cpu(const TopkLinearBackwardParams& params,
                                       int64_t row_begin,
                                       int64_t row_end);
    // dweight of columns [column_begin, column_end), and dbias with the first;
    // `sums` has room for classes float64 per column.
    void topk_linear_backward_columns_cpu(
        const TopkLinearBackwardParams& params,
        int32_t column_begin,
        int32_t column_end,
        double* sums);)

// Scratch of topk_linear_backward_cuda; a function of the sizes alone, so that
// sums have the same order on every device.
int64_t topk_linear_partials(int64_t rows, int32_t dim, int32_t classes);

const char* topk_linear_cuda(const TopkLinearParams& params, void* stream);
const char* topk_linear_backward_cuda(const TopkLinearBackwardParams& params,
                                      void* stream);

}  // namespace sparse_aasist
