// Arithmetic of vectors of floating point numbers; see simd.h.
#pragma once

#include <cstdint>

#include "selu.h"
#include "simd.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// `value` in every lane. Not broadcast(): x - 0 is x for every x and costs
// nothing, x + 0 is an addition, for -0 + 0 is +0.
template <class T>
inline Vector<T> splat(T value) {
  return value - Vector<T>{};
}

template <class T>
inline T sum_lanes(Vector<T> vector) {
  T lanes[kLanes<T>];
  store<T>(lanes, vector);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      lanes[lane] += lanes[lane + half];
  return lanes[0];
}

template <class T>
inline T max_lanes(Vector<T> vector) {
  T highest = vector[0];
  for (int lane = 1; lane < kLanes<T>; ++lane)
    highest = vector[lane] > highest ? vector[lane] : highest;
  return highest;
}

// exp(x) = 2^n (1 + part), with x = n log(2) + r and part = exp(r) - 1 by its
// Taylor series: |r| <= log(2) / 2, so that what follows r^7 is below 2e-8 of
// r. For |x| < 87.
struct ExpParts {
  Vector<float> power, part;
};

inline ExpParts exp_parts(Vector<float> x) {
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  constexpr float kRound = 0x1.8p23f;  // brings whole numbers to the low bits
  const Vector<float> shifted = x * 0x1.715476p0f + kRound;  // 1 / log(2)
  const Vector<float> n = shifted - kRound;
  // log(2) in two parts, of which n times the first is exact.
  const Vector<float> r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  Vector<float> series = splat(1.0f / 5040);
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 1.0f / 2;
  const Vector<float> part = r + r * r * series;
  const Unsigned bits = reinterpret_cast<Unsigned>(shifted);
  // The whole number lies in the low bits, and above them a constant that the
  // shift drops.
  const Unsigned power = (bits << 23) + (127u << 23);
  return {reinterpret_cast<Vector<float>>(power), part};
}

// exp(x) for x <= 0; 0 below -87.
inline Vector<float> exp_of_negative(Vector<float> x) {
  const auto [power, part] = exp_parts(x);
  return x < -87.0f ? splat(0.0f) : power + power * part;
}

// exp(x) - 1 for x <= 0, exact near zero too.
inline Vector<float> expm1_of_negative(Vector<float> x) {
  const auto [power, part] = exp_parts(x < -87.0f ? splat(-87.0f) : x);
  return power * part + (power - 1.0f);
}

// tanh(x) = t / (t + 2), with t = exp(2x) - 1: exact to some 2e-7 of tanh(x)
// near zero too.
inline Vector<float> tanh_of(Vector<float> x) {
  // Comparisons in this order keep NaN.
  Vector<float> twice = x + x;
  twice = twice > 20.0f ? splat(20.0f) : twice;
  twice = twice < -20.0f ? splat(-20.0f) : twice;
  const auto [power, part] = exp_parts(twice);
  const Vector<float> t = power * part + (power - 1.0f);
  return t / (t + 2.0f);
}

inline Vector<double> exp_of_negative(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane)
    x[lane] = __builtin_exp(x[lane]);
  return x;
}

inline Vector<double> expm1_of_negative(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane)
    x[lane] = __builtin_expm1(x[lane]);
  return x;
}

inline Vector<double> tanh_of(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane)
    x[lane] = __builtin_tanh(x[lane]);
  return x;
}

template <class T>
inline Vector<T> selu_of(Vector<T> x) {
  constexpr T kScale = static_cast<T>(kSeluScale);
  constexpr T kSlope = static_cast<T>(kSeluScale * kSeluAlpha);
  // A comparison in this order keeps NaN.
  const Vector<T> below = kSlope * expm1_of_negative(x > 0 ? splat<T>(0) : x);
  return x > 0 ? kScale * x : below;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
