// Rows of the gradient of y, and of the middle, for the passes of the gradient
// of residual_block_training on a CPU in bfloat16.
#pragma once

#include <cstdint>

#include "tiles/residual_backward_bfloat16_scratch.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Of a pool's three steps, the one that it chose.
template <int kChannels>
inline void unpool(const uint16_t* grad, const uint8_t* chosen, uint16_t* to) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  for (int c = 0; c < kChannels; c += kGroupChannels) {
    const __m512i values = _mm512_loadu_si512(grad + c);
    const __m256i steps =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chosen + c));
    for (int step = 0; step < kPoolSteps; ++step) {
      const __mmask32 is_chosen = _mm256_cmpeq_epi8_mask(
          steps, _mm256_set1_epi8(static_cast<char>(step)));
      _mm512_storeu_si512(to + step * kChannels + c,
                          _mm512_maskz_mov_epi16(is_chosen, values));
    }
  }
#else
  for (int step = 0; step < kPoolSteps; ++step)
    for (int c = 0; c < kChannels; ++c)
      to[step * kChannels + c] = chosen[c] == step ? grad[c] : uint16_t{0};
#endif
}

// Rows of a clip are far from each other, which a processor's own prefetching
// does not see: the next one is asked for while this one is worked on.
inline void prefetch(const void* address) {
  __builtin_prefetch(address);
}

// Row h of the gradient of y, up to a step behind the strip.
template <int kChannels>
inline void load_grad(const ResidualBfloat16BackwardParams& params,
                      const Strip& strip,
                      int64_t h,
                      uint16_t* to) {
  const ResidualBfloat16Params& forward = params.forward;
  const int64_t pooled = forward.steps / kPoolSteps;
  const int64_t row = (strip.clip * forward.height + h) * pooled;
  const int64_t first = strip.begin / kPoolSteps - 1;
  const int64_t end = (strip.begin + strip.count) / kPoolSteps + 1;
  for (int64_t p = first; p < end; ++p, to += kPoolSteps * kChannels) {
    const int64_t at = (row + p) * kChannels;
    const int64_t next = at + pooled * kChannels;
    for (int c = 0; c < kChannels; c += kGroupChannels)
      prefetch(params.grad_out + next + c);
    prefetch(forward.chosen + next);
    if (p < 0 || p >= pooled)
      clear(to, kPoolSteps * kChannels);
    else
      unpool<kChannels>(params.grad_out + at, forward.chosen + at, to);
  }
}

// Row h of x, of one channel, from two steps before the strip on.
inline void load_first(const ResidualBfloat16Params& params,
                       const Strip& strip,
                       int64_t h,
                       float* to) {
  load_first(params, strip, h, strip.begin - kTapHalo, kFirstRow, to);
}

// A row of the middle, from the strip's first step on.
struct StoredMiddleRow {
  const uint16_t* row;
  int64_t channels;
  int64_t steps;

  Vector<float> at(int64_t t, int64_t c) const {
    return load_bfloat16(row + t * channels + c);
  }
  void prefetch_next(int64_t t, int64_t c) const {
    prefetch(row + (steps + t) * channels + c);
  }
};

// The same of one input channel, computed again from rows of load_first().
struct FirstMiddleRow {
  const FirstConvolution& conv1;
  const float* above;
  const float* own;

  Vector<float> at(int64_t t, int64_t c) const {
    Vector<float> of[1];
    conv1.of[c / kLanes<float>].apply(above + t + 1, own + t + 1, of);
    return of[0];
  }
  void prefetch_next(int64_t, int64_t) const {}
};

struct StripSums {
  alignas(kVectorBytes) float of[kBackwardSums][kMostWidth];

  float* at(GradientSum which, int64_t c) { return of[which] + c; }
};

inline void add_to(float* at, Vector<float> value) {
  store<float>(at, load(at) + value);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
