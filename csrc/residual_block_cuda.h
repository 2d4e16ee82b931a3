// residual_block and its training on a GPU, in bfloat16 with sums in float32.
// Parameters and launchers, free of torch; what the ops compute is said in
// residual_block.h and residual_block_training.h.
//
//   forward   conv1, with sums of the middle in training | norm and SELU,
//             conv2, shortcut, pool
//   backward  conv2 back to the gradient of the normalised middle | gradients
//             of conv2 and shortcut | conv1 and shortcut back to that of x |
//             gradient of conv1
//
// With one input channel the middle is not kept: it is 32 times as large as x,
// and six multiplications an entry.
#pragma once

#include <cstdint>

#include "residual_block.h"

namespace sparse_aasist {

// One input channel, or widths that tensor cores take; a shortcut where they
// differ, and only there.
SPARSE_AASIST_HOST_INLINE bool has_residual_block_cuda(int64_t inputs,
                                                       int64_t outputs,
                                                       bool has_shortcut) {
  const bool widths = (outputs == 32 && (inputs == 1 || inputs == 32)) ||
                      (outputs == 64 && (inputs == 32 || inputs == 64));
  return widths && has_shortcut == (inputs != outputs);
}

// bfloat16 (uint16_t) and float32 as named; channels last.
struct ResidualCudaParams {
  int64_t batch;
  int32_t inputs;
  int32_t outputs;
  int32_t height;
  int64_t steps;
  const uint16_t* x;  // (batch, height, steps, inputs)
  Convolution conv1;
  Convolution conv2;
  Convolution shortcut;  // null: x itself
  uint16_t* middle;      // (batch, height + 1, steps, outputs), conv1(x);
                         // null with one input channel
  float* affine;         // (2, outputs): normalised = [0] middle + [1]
  uint16_t* out;         // (batch, height, steps / kPoolSteps, outputs)
  uint8_t* chosen;       // as out: 0, 1 or 2; null without gradients
  uint32_t* packed;      // residual_packed_cuda()
};

struct ResidualStatisticsParams {
  const float* weight;  // (outputs)
  const float* bias;    // likewise
  double eps;
  float* mean;            // (outputs), of the middle
  float* variance;        // likewise, biased
  float* input_mean;      // (inputs)
  float* input_variance;  // likewise
  float* partials;        // residual_training_partials_cuda()
};

struct ResidualCudaBackwardParams {
  ResidualCudaParams forward;  // out is not read
  Normalisation norm;          // with the statistics of the forward pass
  const uint16_t* grad_out;    // as out
  uint16_t* dnormal;  // as middle: the gradient of the normalised middle
  uint16_t* dx;       // as x
  ResidualGradients gradients;
  float* coefficients;  // (3, outputs): gradient of the middle =
                        // [0] dnormal + [1] middle + [2]
  float* partials;      // residual_backward_partials_cuda()
};

// Entries of `packed` and of `partials`.
int64_t residual_packed_cuda(const ResidualCudaParams& params);
int64_t residual_training_partials_cuda(const ResidualCudaParams& params);
int64_t residual_backward_partials_cuda(const ResidualCudaParams& params);

// All return nullptr, or what went wrong.
const char* residual_block_cuda(const ResidualCudaParams& params,
                                const Normalisation& norm,
                                void* stream);
const char* residual_block_training_cuda(
    const ResidualCudaParams& params,
    const ResidualStatisticsParams& statistics,
    void* stream);
const char* residual_block_training_backward_cuda(
    const ResidualCudaBackwardParams& params,
    void* stream);

}  // namespace sparse_aasist
