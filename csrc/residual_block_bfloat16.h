// residual_block and its training in bfloat16 with sums in float32, on a GPU
// and on a CPU that multiplies tiles. Parameters and launchers, free of torch;
// what the ops compute is said in residual_block.h and
// residual_block_training.h.
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

// One input channel, or widths that products of tiles take; a shortcut where
// they differ, and only there.
SPARSE_AASIST_HOST_INLINE bool has_residual_block_bfloat16(int64_t inputs,
                                                           int64_t outputs,
                                                           bool has_shortcut) {
  const bool widths = (outputs == 32 && (inputs == 1 || inputs == 32)) ||
                      (outputs == 64 && (inputs == 32 || inputs == 64));
  return widths && has_shortcut == (inputs != outputs);
}

// bfloat16 (uint16_t) and float32 as named; channels last.
struct ResidualBfloat16Params {
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
  uint32_t* packed;      // weights as the device's kernels read them
};

struct ResidualStatisticsParams {
  const float* weight;  // (outputs)
  const float* bias;    // likewise
  double eps;
  float* mean;            // (outputs), of the middle
  float* variance;        // likewise, biased
  float* input_mean;      // (inputs)
  float* input_variance;  // likewise
  float* partials;        // sums that are added up in the end
};

struct ResidualBfloat16BackwardParams {
  ResidualBfloat16Params forward;  // out is not read
  Normalisation norm;              // with the statistics of the forward pass
  const uint16_t* grad_out;        // as out
  uint16_t* dnormal;  // as middle: the gradient of the normalised middle
  uint16_t* dx;       // as x
  ResidualGradients gradients;
  float* coefficients;  // (3, outputs): gradient of the middle =
                        // [0] dnormal + [1] middle + [2]
  float* partials;      // sums that are added up in the end
};

// On a GPU: entries of `packed` and of `partials`.
int64_t residual_packed_cuda(const ResidualBfloat16Params& params);
int64_t residual_training_partials_cuda(const ResidualBfloat16Params& params);
int64_t residual_backward_partials_cuda(const ResidualBfloat16Params& params);

// All return nullptr, or what went wrong.
const char* residual_block_cuda(const ResidualBfloat16Params& params,
                                const Normalisation& norm,
                                void* stream);
const char* residual_block_training_cuda(
    const ResidualBfloat16Params& params,
    const ResidualStatisticsParams& statistics,
    void* stream);
const char* residual_block_training_backward_cuda(
    const ResidualBfloat16BackwardParams& params,
    void* stream);

// On a CPU. Work is cut as in float32: tasks of residual_tasks(), which without
// gradients need no middle, and groups of residual_groups(). Passes follow each
// other in this order; `begin` and `end` are a part of the tasks or groups.
SPARSE_AASIST_FOR_EACH_TILE_LEVEL(
    // Entries of `packed`, and bytes of scratch.
    int64_t residual_bfloat16_packed_cpu(const ResidualBfloat16Params& params);
    int64_t residual_bfloat16_scratch_cpu(const ResidualBfloat16Params& params);

    void residual_bfloat16_pack_cpu(const ResidualBfloat16Params& params);
    // Writes `affine`.
    void residual_bfloat16_norm_cpu(const ResidualBfloat16Params& params,
                                    const Normalisation& norm);
    // Tasks: the block.
    void residual_bfloat16_cpu(const ResidualBfloat16Params& params,
                               int64_t begin,
                               int64_t end,
                               void* scratch);

    // In training; entries of `partials` first, of all groups.
    int64_t residual_training_bfloat16_partials_cpu(
        const ResidualBfloat16Params& params);
    // Groups: the middle and sums.
    void residual_training_bfloat16_middle_cpu(
        const ResidualBfloat16Params& params,
        const ResidualStatisticsParams& statistics,
        int64_t begin,
        int64_t end,
        void* scratch);
    // Means and variances; residual_bfloat16_norm_cpu() follows.
    void residual_training_bfloat16_statistics_cpu(
        const ResidualBfloat16Params& params,
        const ResidualStatisticsParams& statistics);
    // Groups: out and chosen.
    void residual_training_bfloat16_out_cpu(
        const ResidualBfloat16Params& params,
        int64_t begin,
        int64_t end,
        void* scratch);

    // Of the gradient, which packs weights of its own.
    int64_t residual_backward_bfloat16_packed_cpu(
        const ResidualBfloat16Params& params);
    int64_t residual_backward_bfloat16_scratch_cpu(
        const ResidualBfloat16Params& params);
    int64_t residual_backward_bfloat16_partials_cpu(
        const ResidualBfloat16Params& params);

    // Weights, and `affine` from the norm.
    void residual_backward_bfloat16_pack_cpu(
        const ResidualBfloat16BackwardParams& params);
    // Groups: dnormal, and sums for conv2, norm and biases.
    void residual_backward_bfloat16_middle_cpu(
        const ResidualBfloat16BackwardParams& params,
        int64_t begin,
        int64_t end,
        void* scratch);
    // `coefficients`, and the gradients of the norm and of all biases.
    void residual_backward_bfloat16_norm_cpu(
        const ResidualBfloat16BackwardParams& params);
    // Groups: dx, and sums for conv1 and shortcut.
    void residual_backward_bfloat16_input_cpu(
        const ResidualBfloat16BackwardParams& params,
        int64_t begin,
        int64_t end,
        void* scratch);
    // The gradients of weights, for entries [begin, end) of
    // residual_backward_bfloat16_entries(), in the order of `partials`.
    void residual_backward_bfloat16_sum_cpu(
        const ResidualBfloat16BackwardParams& params,
        int64_t begin,
        int64_t end);)

// Of the gradients of conv1's, conv2's and the shortcut's weight.
inline int64_t residual_backward_bfloat16_entries(
    const ResidualBfloat16Params& params) {
  const int64_t inputs = params.inputs, outputs = params.outputs;
  return outputs * 3 *
         (2 * inputs + 2 * outputs +
          (params.shortcut.weight != nullptr ? inputs : 0));
}

}  // namespace sparse_aasist
