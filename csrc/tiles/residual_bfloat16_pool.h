// The pool of the forward kernels of residual blocks in bfloat16, and the
// shortcut of one input channel, which it adds.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Weights are rounded, biases left to conv2.
struct FirstShortcut {
  Vector<float> weight[kFirstVectors][kTaps];

  template <int kCount>
  void add(int v, const float* steps, Vector<float> (&sums)[kCount]) const {
    for (int tap = 0; tap < kTaps; ++tap)
      for (int i = 0; i < kCount; ++i)
        sums[i] += weight[v][tap] * splat(steps[tap + i]);
  }
};

inline FirstShortcut first_shortcut(const ResidualBfloat16Params& params) {
  FirstShortcut of;
  for (int v = 0; v < kFirstVectors; ++v)
    for (int tap = 0; tap < kTaps; ++tap)
      for (int lane = 0; lane < kLanes<float>; ++lane)
        of.weight[v][tap][lane] = float_of(bfloat16_of(
            params.shortcut.weight[(v * kLanes<float> + lane) * kTaps + tap]));
  return of;
}

typedef uint8_t ByteVector __attribute__((vector_size(kLanes<float>)));

// The largest of three, NaN if one is.
inline Vector<float> largest_of(const Vector<float> (&of)[kPoolSteps]) {
  const Vector<float> most = larger(larger(of[0], of[1]), of[2]);
  return (of[0] != of[0]) | (of[1] != of[1]) ? of[0] + of[1] : most;
}

// And which it is: the first of equals.
struct Largest {
  Vector<float> value;
  Vector<int32_t> chosen;
};

inline Largest choose_largest(const Vector<float> (&of)[kPoolSteps]) {
  Largest most = {of[0], Vector<int32_t>{}};
  for (int32_t step = 1; step < kPoolSteps; ++step) {
    const Vector<int32_t> better =
        (of[step] > most.value) | (of[step] != of[step]);
    most.value = better ? of[step] : most.value;
    most.chosen = better ? Vector<int32_t>{} + step : most.chosen;
  }
  return most;
}

// A block of sums that waits to be pooled.
template <bool kIsFirst, bool kChooses>
class Pool {
 public:
  Pool(const ResidualBfloat16Params& params,
       const Strip& strip,
       const float* start,
       const float* sums)
      : params_(params), strip_(strip), start_(start), sums_(sums) {
    if constexpr (kIsFirst)
      shortcut_ = first_shortcut(params);
  }

  // `first` is a single input channel's row, from a step before the strip on.
  void wait(int32_t h, int64_t step, int64_t output, const float* first) {
    const int64_t pool = step / kPoolSteps;
    waiting_ = strip_.pools - pool;
    if constexpr (kIsFirst)
      first_ = first + step;
    bias_ = start_ + output;
    at_ = ((strip_.clip * params_.height + h) * (params_.steps / kPoolSteps) +
           strip_.first_pool + pool) *
              params_.outputs +
          output;
  }

  void done() { waiting_ = 0; }

  void run(int32_t unit) const {
    const int32_t pool = unit / kSumVectors;
    if (pool >= waiting_)
      return;
    const int32_t v = unit % kSumVectors, lane = v * kLanes<float>;
    const float* const from = sums_ + pool * kPoolSteps * kSumOutputs + lane;
    Vector<float> of[kPoolSteps];
    for (int step = 0; step < kPoolSteps; ++step)
      of[step] = load(from + step * kSumOutputs);
    if constexpr (kIsFirst)
      shortcut_.add(v, first_ + pool * kPoolSteps, of);
    put(of, load(bias_ + lane), at_ + pool * params_.outputs + lane);
  }

 private:
  // The bias is the same for all steps: the largest is so without it, too.
  void put(const Vector<float> (&of)[kPoolSteps],
           Vector<float> bias,
           int64_t to) const {
    if constexpr (!kChooses) {
      store_bfloat16(params_.out + to, largest_of(of) + bias);
      return;
    }
    const Largest most = choose_largest(of);
    store_bfloat16(params_.out + to, most.value + bias);
    const ByteVector chosen = __builtin_convertvector(most.chosen, ByteVector);
    __builtin_memcpy(params_.chosen + to, &chosen, sizeof(chosen));
  }

  const ResidualBfloat16Params& params_;
  const Strip& strip_;
  const float* start_;
  const float* sums_;
  FirstShortcut shortcut_;
  const float* bias_ = nullptr;
  const float* first_ = nullptr;
  int64_t waiting_ = 0;  // pools
  int64_t at_ = 0;
};

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
