// Batch normalisation with given statistics, as a scale and a shift.
#pragma once

#include <cmath>

#include "launch.h"
#include "residual_block.h"

namespace sparse_aasist {

struct Affine {
  float scale;
  float shift;
};

__device__ __forceinline__ Affine affine_of(const Normalisation& norm,
                                            int32_t channel) {
  const float deviation =
      std::sqrt(norm.variance[channel] + static_cast<float>(norm.eps));
  const float scale = norm.weight[channel] / deviation;
  return {scale, norm.bias[channel] - norm.mean[channel] * scale};
}

}  // namespace sparse_aasist
