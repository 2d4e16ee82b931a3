// topk_activation: keep the k largest values of every row, zero the rest.
// Parameters and launchers, free of torch.
#pragma once

#include <cstdint>

namespace sparse_aasist {

enum class FloatFormat : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

struct TopkActivationParams {
  const void* x;  // (rows, dim), contiguous
  void* y;        // (rows, dim), contiguous, same format as x
  bool* mask;     // (rows, dim), contiguous, true where x is kept
  int64_t rows;
  int32_t dim;  // >= 1
  int32_t k;    // 1 .. dim
  bool by_abs;  // rank |x| instead of x
  FloatFormat format;
};

// Fills rows [row_begin, row_end).
void topk_activation_cpu(const TopkActivationParams& params,
                         int64_t row_begin,
                         int64_t row_end);

// Fills all rows on `stream` (a cudaStream_t) of the current device.
// Returns nullptr, or the reason why the launch failed.
const char* topk_activation_cuda(const TopkActivationParams& params,
                                 void* stream);

}  // namespace sparse_aasist
