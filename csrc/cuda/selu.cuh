// SELU and its slope; the fast ones by the special-function unit, to some 1e-7.
#pragma once

#include <cmath>

#include "selu.h"
#include "tensor_core.cuh"

namespace sparse_aasist {

__device__ __forceinline__ float selu(float x) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  constexpr float kSlope = static_cast<float>(kSeluScale * kSeluAlpha);
  return x > 0 ? kScale * x : kSlope * std::expm1(x);
}

constexpr float kLog2E = 1.44269504088896341f;

__device__ __forceinline__ float fast_selu(float x) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  constexpr float kBelow = static_cast<float>(kSeluScale * kSeluAlpha);
  return x > 0 ? kScale * x : kBelow * fast_exp2(x * kLog2E) - kBelow;
}

__device__ __forceinline__ float fast_selu_slope(float x) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  constexpr float kBelow = static_cast<float>(kSeluScale * kSeluAlpha);
  return x > 0 ? kScale : kBelow * fast_exp2(x * kLog2E);
}

}  // namespace sparse_aasist
