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

// What a bisection on keys shares: are there keys between two?
template <class Key>
SPARSE_AASIST_INLINE bool are_neighbours(Key low, Key high) {
  return static_cast<Key>(low + 1) == high;
}

// A key between low and high, which are not neighbours. Keys are, more or
// less, logarithms of values, and half of them belong to values next to zero:
// the first steps halve the range of values, which is much faster on data
// spread around zero; the others halve that of keys, and there are at most as
// many as a key has bits.
template <class Format, class Key = typename Format::Bits>
SPARSE_AASIST_INLINE Key middle_key(Key low, Key high, int32_t step) {
  constexpr int32_t kStepsByValue = 4;
  if constexpr (sizeof(typename Format::Bits) >= 4) {
    using Real = std::conditional_t<sizeof(Key) == 4, float, double>;
    if (step < kStepsByValue) {
      const Key bits_low = low < 0 ? -low : low;
      const Key bits_high = high < 0 ? -high : high;
      const Real half_low = bit_cast<Real>(bits_low) / 2;
      const Real half_high = bit_cast<Real>(bits_high) / 2;
      const Real mean = (low < 0 ? -half_low : half_low) +
                        (high < 0 ? -half_high : half_high);
      const Key key = order_key<Format, RankBy::kValue>(bit_cast<Key>(mean));
      // Not so where a range has infinite or NaN ends.
      if (low < key && key < high)
        return key;
    }
  }
  // The range may exceed the largest Key.
  using Wide = std::make_unsigned_t<Key>;
  const Wide range =
      static_cast<Wide>(static_cast<Wide>(high) - static_cast<Wide>(low));
  return static_cast<Key>(static_cast<Wide>(low) + range / 2);
}

}  // namespace sparse_aasist
