// Floating point formats by their bit patterns, so that kernels handle half
// precision alike on every compiler and need no half type.
#pragma once

#include <cstdint>
#include <cstring>

// Always inlined: a CPU source is compiled once per SIMD level, and of a
// function that is not, the linker would keep one level's copy for all.
#define SPARSE_AASIST_HOST_INLINE inline __attribute__((always_inline))
#ifdef __CUDACC__
#define SPARSE_AASIST_INLINE __host__ __device__ __forceinline__
#else
#define SPARSE_AASIST_INLINE SPARSE_AASIST_HOST_INLINE
#endif

namespace sparse_aasist {

enum class FloatFormat : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

template <class To, class From>
SPARSE_AASIST_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Every format has: Bits, a signed integer that holds a value's pattern;
// kInfinity, the pattern of infinity, above which lie the magnitudes of NaN;
// to_double, exact; from_double, rounded to float32 first when narrower, as
// torch converts.
struct Float64 {
  using Bits = int64_t;
  static constexpr Bits kInfinity = 0x7ff0000000000000;
  SPARSE_AASIST_INLINE static double to_double(Bits bits) {
    return bit_cast<double>(bits);
  }
  SPARSE_AASIST_INLINE static Bits from_double(double value) {
    return bit_cast<Bits>(value);
  }
};

struct Float32 {
  using Bits = int32_t;
  static constexpr Bits kInfinity = 0x7f800000;
  SPARSE_AASIST_INLINE static double to_double(Bits bits) {
    return bit_cast<float>(bits);
  }
  SPARSE_AASIST_INLINE static Bits from_double(double value) {
    return bit_cast<Bits>(static_cast<float>(value));
  }
};

// Shifts out the `count` lowest bits, rounding to nearest, ties to even.
SPARSE_AASIST_INLINE uint32_t shift_and_round(uint32_t value, int32_t count) {
  const uint32_t odd = (value >> count) & 1u;
  return (value + (1u << (count - 1)) - 1u + odd) >> count;
}

struct BFloat16 {
  using Bits = int16_t;
  static constexpr Bits kInfinity = 0x7f80;
  SPARSE_AASIST_INLINE static double to_double(Bits bits) {
    return bit_cast<float>(static_cast<uint32_t>(static_cast<uint16_t>(bits))
                           << 16);
  }
  SPARSE_AASIST_INLINE static Bits from_double(double value) {
    const uint32_t bits = bit_cast<uint32_t>(static_cast<float>(value));
    if ((bits & 0x7fffffffu) > 0x7f800000u)
      return 0x7fc0;
    return static_cast<Bits>(shift_and_round(bits, 16));
  }
};

// Of two bfloat16 in 32 bits.
SPARSE_AASIST_INLINE float low_bfloat16(uint32_t pair) {
  return bit_cast<float>(pair << 16);
}

SPARSE_AASIST_INLINE float high_bfloat16(uint32_t pair) {
  return bit_cast<float>(pair & 0xffff0000u);
}

struct Float16 {
  using Bits = int16_t;
  static constexpr Bits kInfinity = 0x7c00;
  SPARSE_AASIST_INLINE static double to_double(Bits bits) {
    const uint32_t magnitude = static_cast<uint16_t>(bits) & 0x7fffu;
    const double sign = bits < 0 ? -1.0 : 1.0;
    if (magnitude < 0x400u)
      return sign * 0x1p-24 * magnitude;  // subnormal
    // Exponent bias 15 in the format, 127 in float32.
    const uint32_t rebias =
        magnitude >= 0x7c00u ? (255u - 31u) << 23 : (127u - 15u) << 23;
    return sign * bit_cast<float>((magnitude << 13) + rebias);
  }
  SPARSE_AASIST_INLINE static Bits from_double(double value) {
    const uint32_t bits = bit_cast<uint32_t>(static_cast<float>(value));
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u)
      half = 0x7e00u;  // NaN
    else if (magnitude >= 0x477ff000u)
      half = 0x7c00u;  // rounds to 65,536 or more: infinity
    else if (magnitude >= 0x38800000u)
      half = shift_and_round(magnitude - ((127u - 15u) << 23), 13);
    else if (magnitude <= 0x33000000u)
      half = 0u;  // at most half of the smallest subnormal
    else
      half = shift_and_round((magnitude & 0x7fffffu) | 0x800000u,
                             126 - static_cast<int32_t>(magnitude >> 23));
    return static_cast<Bits>(sign | half);
  }
};

// Calls run(Format{}) for the named format.
template <class Run>
SPARSE_AASIST_HOST_INLINE auto with_format(FloatFormat format, const Run& run) {
  switch (format) {
    case FloatFormat::kFloat64:
      return run(Float64{});
    case FloatFormat::kFloat16:
      return run(Float16{});
    case FloatFormat::kBFloat16:
      return run(BFloat16{});
    default:
      return run(Float32{});
  }
}

}  // namespace sparse_aasist
