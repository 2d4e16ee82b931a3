// Order-preserving integer keys, read from the bit pattern alone, so that
// every backend ranks values in exactly the same way.
//
//   NaN (any sign, any payload)  -> the largest key, as torch.topk has it
//   otherwise                    -> magnitude with the value's sign;
//                                   -0 and +0 tie
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "float_format.h"

namespace sparse_aasist {

// What is ranked: x, |x|, or max(x, 0).
enum class RankBy : int32_t { kValue, kAbs, kRelu };

template <RankBy kBy>
using RankByConstant = std::integral_constant<RankBy, kBy>;

// Calls run(RankByConstant<by>{}).
template <class Run>
SPARSE_AASIST_HOST_INLINE auto with_rank_by(RankBy by, const Run& run) {
  switch (by) {
    case RankBy::kAbs:
      return run(RankByConstant<RankBy::kAbs>{});
    case RankBy::kRelu:
      return run(RankByConstant<RankBy::kRelu>{});
    default:
      return run(RankByConstant<RankBy::kValue>{});
  }
}

template <class Format>
struct KeyRange {
  using Key = typename Format::Bits;
  static constexpr Key kNan = std::numeric_limits<Key>::max();
  // Of no value: fills what a row leaves empty.
  static constexpr Key kNothing = std::numeric_limits<Key>::min();
  // Below the key of every value: -infinity has key -kInfinity.
  static constexpr Key kBelowAll = static_cast<Key>(-Format::kInfinity - 1);
};

// Key of one pattern, or of a vector of patterns: T is Format::Bits or a
// compiler vector of it.
template <class Format, RankBy kBy, class T>
SPARSE_AASIST_INLINE T order_key(T bits) {
  using Bits = typename Format::Bits;
  constexpr Bits kNan = KeyRange<Format>::kNan;
  constexpr int kSignBit = 8 * sizeof(Bits) - 1;
  const T magnitude = bits & kNan;  // all bits but the sign
  T key = magnitude;
  if constexpr (kBy == RankBy::kValue) {
    const T sign = bits >> kSignBit;  // 0 or -1
    key = (magnitude ^ sign) - sign;
  }
  if constexpr (kBy == RankBy::kRelu) {
    const T sign = bits >> kSignBit;
    key = magnitude & ~sign;
  }
  const T nan = T{} + kNan;
  return magnitude > Format::kInfinity ? nan : key;
}

}  // namespace sparse_aasist
