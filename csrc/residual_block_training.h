// residual_block_training: the block of residual_block.h with the statistics of
// its batch, and its gradient. Parameters and launchers, free of torch.
//
// What is kept for the gradient is conv1(x) and which of three steps each
// result came from. Batch statistics cut both directions in two passes:
//
//   forward   conv1 and its sums | normalise, SELU, conv2, shortcut, pool
//   backward  conv2 back to the gradient of the normalised middle, and its sums
//             | conv1 and shortcut back to that of x
//
// Gradients of weights are summed in groups of tasks, those of Winograd's
// convolutions in its domain, then over the groups in order: results do not
// depend on the number of threads.
#pragma once

#include <cstdint>

#include "residual_block.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int64_t kResidualSums = 4;

// float32, channels last; middle rows are one more than those of x.
struct ResidualTrainingParams {
  int64_t batch;
  int32_t inputs;
  int32_t outputs;
  int32_t height;
  int64_t steps;
  const float* x;  // (batch, height, steps, inputs)
  Convolution conv1;
  const float* norm_weight;  // (outputs)
  const float* norm_bias;
  double eps;
  Convolution conv2;
  Convolution shortcut;   // null: x itself
  float* middle;          // (batch, height + 1, steps, outputs), conv1(x)
  float* mean;            // (outputs), of the middle
  float* variance;        // likewise, biased
  float* input_mean;      // (inputs), of x
  float* input_variance;  // likewise
  float* out;             // (batch, height, steps / kPoolSteps, outputs)
  uint8_t* chosen;        // likewise: 0, 1 or 2
  float* packed;
  double* sums;  // (groups, kResidualSums, sum_width())
};

SPARSE_AASIST_HOST_INLINE int64_t
sum_width(const ResidualTrainingParams& params) {
  return params.inputs > params.outputs ? params.inputs : params.outputs;
}

struct ResidualBackwardParams {
  ResidualTrainingParams forward;  // out is not read
  const float* grad_out;           // as out
  float* dnormal;  // as middle: the gradient of the normalised middle
  float* dx;       // as x
  ResidualGradients gradients;
  float* partials;  // (groups, residual_backward_partials_cpu())
};

// Of the last sum over groups: an input and a tap in height of conv1, then of
// conv2, then an input of the shortcut.
inline int64_t residual_backward_units(const ResidualTrainingParams& params) {
  const int64_t inputs = params.inputs, outputs = params.outputs;
  return 2 * inputs + 2 * outputs +
         (params.shortcut.weight != nullptr ? inputs : 0);
}

// Tasks go through a pass in groups of neighbours, which share their sums:
// enough for many threads, and small enough that sums in float32 stay exact to
// some 1e-6. A function of the sizes alone.
struct ResidualGroups {
  int64_t tasks;
  int64_t count;

  SPARSE_AASIST_HOST_INLINE int64_t begin(int64_t group) const {
    return tasks * group / count;
  }
};

SPARSE_AASIST_HOST_INLINE ResidualGroups residual_groups(int64_t batch,
                                                         int64_t steps) {
  constexpr int64_t kLeastGroups = 32, kMostTasks = 128;
  const int64_t tasks = batch * residual_tasks(steps).per_clip;
  const int64_t count = (tasks + kMostTasks - 1) / kMostTasks;
  if (count > kLeastGroups)
    return {tasks, count};
  return {tasks, tasks < kLeastGroups ? tasks : kLeastGroups};
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Entries of `packed`, of scratch, and of `partials` for a group.
    int64_t residual_training_packed_cpu(const ResidualTrainingParams& params);
    int64_t residual_training_scratch_cpu(const ResidualTrainingParams& params);

    // In this order; each after the one before it is done for all groups.
    void residual_training_pack_cpu(const ResidualTrainingParams& params);
    void residual_training_middle_cpu(const ResidualTrainingParams& params,
                                      int64_t begin,
                                      int64_t end,
                                      float* scratch);
    // Means and variances.
    void residual_training_statistics_cpu(const ResidualTrainingParams& params);
    void residual_training_out_cpu(const ResidualTrainingParams& params,
                                   int64_t begin,
                                   int64_t end,
                                   float* scratch);

    // The same of the gradient, whose `forward` has a `packed` of its own.
    int64_t residual_backward_packed_cpu(const ResidualBackwardParams& params);
    int64_t residual_backward_scratch_cpu(const ResidualBackwardParams& params);
    int64_t residual_backward_partials_cpu(
        const ResidualBackwardParams& params);

    void residual_backward_pack_cpu(const ResidualBackwardParams& params);
    // dnormal, and sums for conv2, norm and all biases but conv1's.
    void residual_backward_middle_cpu(const ResidualBackwardParams& params,
                                      int64_t begin,
                                      int64_t end,
                                      float* scratch);
    // The gradients of norm, and of the other biases but conv1's.
    void residual_backward_norm_cpu(const ResidualBackwardParams& params);
    // dx, and sums for conv1 and shortcut.
    void residual_backward_input_cpu(const ResidualBackwardParams& params,
                                     int64_t begin,
                                     int64_t end,
                                     float* scratch);
    // The gradients of weights, for units [begin, end) of
    // residual_backward_units(), and of conv1's bias.
    void residual_backward_sum_cpu(const ResidualBackwardParams& params,
                                   int64_t begin,
                                   int64_t end);)

}  // namespace sparse_aasist
