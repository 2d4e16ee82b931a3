// The norm of a block as the kernels read it: a scale and a shift per channel.
#pragma once

#include "batch_norm.cuh"
#include "residual_block_bfloat16.h"

namespace sparse_aasist {

static __global__ void residual_norm_kernel(Normalisation norm,
                                            int32_t channels,
                                            float* to) {
  const int32_t channel = threadIdx.x;
  const Affine affine = affine_of(norm, channel);
  to[channel] = affine.scale;
  to[channels + channel] = affine.shift;
}

inline const char* launch_norm(const ResidualBfloat16Params& params,
                               const Normalisation& norm,
                               void* stream) {
  return SPARSE_AASIST_LAUNCH(residual_norm_kernel, 1, params.outputs, 0,
                              stream, norm, params.outputs, params.affine);
}

}  // namespace sparse_aasist
