// Rows of bfloat16 and their arithmetic, which is float32; see simd.h.
#pragma once

#include <cstdint>

#include "cpu/vector_math.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// As many bfloat16 as a vector has lanes of float32.
typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2)));

inline float float_of(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

// To nearest even; NaN stays.
inline uint16_t bfloat16_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  if (value != value)
    return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline Vector<float> widened(HalfVector halves) {
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512F__)
  // __builtin_convertvector becomes five instructions; as for the mask, see
  // larger().
  const auto wide = reinterpret_cast<Unsigned>(
      _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(halves)));
#else
  const auto wide = __builtin_convertvector(halves, Unsigned);
#endif
  return reinterpret_cast<Vector<float>>(wide << 16);
}

// To nearest even; NaN stays.
inline HalfVector narrowed(Vector<float> wide) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfVector>(
      _mm512_cvtneps_pbh(reinterpret_cast<__m512>(wide)));
#else
  HalfVector halves;
  for (int lane = 0; lane < kLanes<float>; ++lane)
    halves[lane] = bfloat16_of(wide[lane]);
  return halves;
#endif
}

inline Vector<float> load_bfloat16(const uint16_t* from) {
  HalfVector halves;
  __builtin_memcpy(&halves, from, sizeof(halves));
  return widened(halves);
}

// Returns what is stored.
inline Vector<float> store_bfloat16(uint16_t* to, Vector<float> wide) {
  const HalfVector halves = narrowed(wide);
  __builtin_memcpy(to, &halves, sizeof(halves));
  return widened(halves);
}

inline void clear(uint16_t* from, int64_t count) {
  __builtin_memset(from, 0, static_cast<size_t>(count) * sizeof(uint16_t));
}

// Steps [first, first + count) of a row of `steps`, `channels` each; zeros
// stand outside of it.
inline void load_steps(const uint16_t* row,
                       int64_t steps,
                       int64_t channels,
                       int64_t first,
                       int64_t count,
                       uint16_t* to) {
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = steps - first;
  const int64_t end = left < count ? left : count;
  clear(to, begin * channels);
  __builtin_memcpy(
      to + begin * channels, row + (first + begin) * channels,
      static_cast<size_t>((end - begin) * channels) * sizeof(uint16_t));
  clear(to + end * channels, (count - end) * channels);
}

// The larger; b where one is NaN.
inline Vector<float> larger(Vector<float> a, Vector<float> b) {
#if defined(__AVX512F__)
  // Not a > b ? a : b, which becomes two instructions; with a mask, since
  // compilers warn of what the intrinsic without one leaves open.
  return reinterpret_cast<Vector<float>>(_mm512_maskz_max_ps(
      0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}

// What SELU's functions below take: times the normalised value.
constexpr float kLogTwoE = 0x1.715476p0f;  // 1 / log(2)

constexpr float kSeluSlope = static_cast<float>(kSeluScale * kSeluAlpha);
constexpr float kScaledSeluScale =
    static_cast<float>(kSeluScale * 0.6931471805599453);

// kSeluSlope (2^x - 1) for x <= 0. 2^x is 2^n 2^r, |r| <= 1/2, of which
// (2^r - 1) / r is a polynomial of the least relative error, 5e-7. Of several
// vectors, an operation at a time: one alone is a chain of dependent
// operations, longer than a core looks ahead.
template <int kCount>
inline void selu_below_zero(const Vector<float> (&x)[kCount],
                            Vector<float> (&below)[kCount]) {
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  // Brings whole numbers to the low bits, as exponents of float32.
  constexpr float kRound = 0x1.8p23f + 127;
  constexpr double kSeries[] = {9.66625e-3, 5.5505e-2, 0.24022351, 0.69314714};
  const auto coefficient = [](double value) {
    return static_cast<float>(kSeluScale * kSeluAlpha * value);
  };
  Vector<float> r[kCount], power[kCount];
  for (int i = 0; i < kCount; ++i)
    r[i] = larger(splat(-126.0f), x[i]);
  for (int i = 0; i < kCount; ++i)
    power[i] = r[i] + kRound;
  for (int i = 0; i < kCount; ++i) {
    r[i] -= power[i] - kRound;
    power[i] = reinterpret_cast<Vector<float>>(
        reinterpret_cast<Unsigned>(power[i]) << 23);
    below[i] = splat(coefficient(1.33335e-3));
  }
  for (const double next : kSeries)
    for (int i = 0; i < kCount; ++i)
      below[i] = below[i] * r[i] + coefficient(next);
  for (int i = 0; i < kCount; ++i)
    below[i] *= r[i];
  for (int i = 0; i < kCount; ++i)
    below[i] = power[i] * below[i] + (power[i] * kSeluSlope - kSeluSlope);
}

// x becomes SELU of log(2) x.
template <int kCount>
inline void apply_selu(Vector<float> (&x)[kCount]) {
  Vector<float> below[kCount];
  selu_below_zero(x, below);
  for (int i = 0; i < kCount; ++i)
    x[i] = x[i] > 0 ? x[i] * kScaledSeluScale : below[i];
}

// And SELU's slope there, which below zero is the value and a constant.
template <int kCount>
inline void apply_selu(Vector<float> (&x)[kCount],
                       Vector<float> (&slope)[kCount]) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  Vector<float> below[kCount];
  selu_below_zero(x, below);
  for (int i = 0; i < kCount; ++i) {
    slope[i] = x[i] > 0 ? splat(kScale) : below[i] + kSeluSlope;
    x[i] = x[i] > 0 ? x[i] * kScaledSeluScale : below[i];
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
