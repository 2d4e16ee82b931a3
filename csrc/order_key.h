// Order-preserving integer keys for floating point formats, read from the bit
// pattern alone, so that every backend ranks values in exactly the same way
// and no half-precision type is needed.
//
//   NaN (any sign, any payload)  -> all ones: largest, as torch.topk has it
//   value >= 0                   -> sign_bit + magnitude
//   value <= 0                   -> sign_bit - magnitude; -0 and +0 tie
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SPARSE_AASIST_HOST_DEVICE __host__ __device__
#else
#define SPARSE_AASIST_HOST_DEVICE
#endif

namespace sparse_aasist {

// kInfinity is the magnitude of infinity; every larger magnitude is a NaN.
struct Float32 {
  using Bits = uint32_t;
  static constexpr Bits kSign = 0x80000000u;
  static constexpr Bits kInfinity = 0x7f800000u;
};

struct Float64 {
  using Bits = uint64_t;
  static constexpr Bits kSign = 0x8000000000000000ull;
  static constexpr Bits kInfinity = 0x7ff0000000000000ull;
};

struct Float16 {
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000u;
  static constexpr Bits kInfinity = 0x7c00u;
};

struct BFloat16 {
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000u;
  static constexpr Bits kInfinity = 0x7f80u;
};

// Key of one value; by_abs ranks |value| instead.
template <class Format>
SPARSE_AASIST_HOST_DEVICE inline typename Format::Bits order_key(
    typename Format::Bits bits,
    bool by_abs) {
  using Bits = typename Format::Bits;
  const Bits magnitude = static_cast<Bits>(bits & ~Format::kSign);
  if (magnitude > Format::kInfinity)
    return static_cast<Bits>(~Bits{0});
  const bool negative = (bits & Format::kSign) != 0 && !by_abs;
  return static_cast<Bits>(negative ? Format::kSign - magnitude
                                    : Format::kSign + magnitude);
}

}  // namespace sparse_aasist
