// residual_block: a residual block of AASIST's encoder without gradients, in
// one pass. Parameters and launchers, free of torch.
//
//   middle = selu(norm(conv1(x))), a (2, 3) convolution, padding (1, 1)
//   y = conv2(middle) + shortcut(x), (2, 3) and padding (0, 1);
//       the shortcut is x, or a (1, 3) convolution of it, padding (0, 1)
//   out = the largest of three neighbouring time steps of y, NaN above all
//
// conv2, and conv1 from 8 channels on, are Winograd's F(4, 3) along time: 6
// products for 4 steps of 3 taps. In each of them a value that is not finite
// makes up to 5 neighbouring steps NaN, not 3.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kMaxChannels = 128;
constexpr int32_t kPoolSteps = 3;

struct Convolution {
  const float* weight;  // (outputs, inputs, taps in height, 3)
  const float* bias;    // (outputs)
};

// Running statistics and the affine part, (channels) each.
struct Normalisation {
  const float* weight;
  const float* bias;
  const float* mean;
  const float* variance;
  double eps;
};

// Of the weights of a block, in float32 and the shapes of the weights.
struct ResidualGradients {
  float* conv1_weight;
  float* conv1_bias;
  float* norm_weight;
  float* norm_bias;
  float* conv2_weight;
  float* conv2_bias;
  float* shortcut_weight;  // null without one
  float* shortcut_bias;
};

// float32.
struct ResidualBlockParams {
  int64_t batch;
  int32_t inputs;
  int32_t outputs;
  int32_t height;
  int64_t steps;   // at least kPoolSteps
  const float* x;  // (batch, height, steps, inputs): channels last
  Convolution conv1;
  Normalisation norm;
  Convolution conv2;
  Convolution shortcut;  // null: x itself, inputs = outputs
  float* out;            // (batch, height, steps / kPoolSteps, outputs)
  float* packed;         // residual_block_packed_cpu()
};

// A task is a few time steps of all rows of a clip. It is computed in blocks of
// 48 steps, with a halo of one to each side, so that 16 m - 1 pooled steps, of
// three each, waste least.
struct ResidualTasks {
  int64_t pooled;  // steps of the output of a task, but for the last of a clip
  int64_t per_clip;
};

constexpr int64_t kBlockPooled = 16;
constexpr int64_t kMostPooled = 3 * kBlockPooled - 1;

// A function of the sizes alone. Short clips are cut so that several threads
// find work in one.
SPARSE_AASIST_HOST_INLINE ResidualTasks residual_tasks(int64_t steps) {
  constexpr int64_t kWantedTasks = 6;
  const int64_t all = steps / kPoolSteps;
  const int64_t wanted = (all + kWantedTasks - 1) / kWantedTasks + 1;
  const int64_t blocks = (wanted + kBlockPooled - 1) / kBlockPooled;
  int64_t pooled = blocks * kBlockPooled - 1;
  pooled = pooled > kMostPooled ? kMostPooled : pooled;
  return {pooled, (all + pooled - 1) / pooled};
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Entries of `packed`, and of scratch for a task.
    int64_t residual_block_packed_cpu(const ResidualBlockParams& params);
    int64_t residual_block_scratch_cpu(const ResidualBlockParams& params);

    // Writes the weights, as the kernel reads them, to `packed`.
    void residual_block_pack_cpu(const ResidualBlockParams& params);
    // Tasks [begin, end) of batch * residual_tasks().per_clip.
    void residual_block_cpu(const ResidualBlockParams& params,
                            int64_t begin,
                            int64_t end,
                            float* scratch);)

}  // namespace sparse_aasist
