// SELU's constants: arXiv 1706.02515, eq. 2 and 14.
//
//   selu(x) = scale * x for x > 0, else scale * alpha * (exp(x) - 1)
#pragma once

namespace sparse_aasist {

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

}  // namespace sparse_aasist
