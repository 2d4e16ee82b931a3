// What calls of the encoder's kernels have in common.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "residual_block.h"
#include "where.h"

namespace sparse_aasist::simt {

inline Normalisation normalisation(const Call& call, size_t first) {
  return {call.array_or_null<float>(first),
          call.array_or_null<float>(first + 1),
          call.array_or_null<float>(first + 2),
          call.array_or_null<float>(first + 3),
          bit_cast<double>(call.scalars.back())};
}

// Calls kernel(begin, end, scratch) for [0, count) in two parts, as two
// threads would.
template <class Kernel>
void in_parts(int64_t count, int64_t scratch_size, const Kernel& kernel) {
  const auto run = [&](int64_t begin, int64_t end) {
    const Room scratch(4 * scratch_size);
    kernel(begin, end, scratch.data<float>());
  };
  if (count > 1)
    run(0, count / 2);
  if (count > 0)
    run(count / 2, count);
}

// Of the weights of a block, from array number `first` on.
inline ResidualGradients gradients(const Call& call, size_t first) {
  const auto at = [&](size_t i) {
    return call.array_or_null<float>(first + i);
  };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
}

}  // namespace sparse_aasist::simt
