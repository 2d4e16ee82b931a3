// From the normalised middle on: SELU, conv2, shortcut and pool. A task walks
// down the rows of a strip of time. conv2 is a row behind the middle, so that
// its products and the making of the next row go on at the same time.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_pool.h"
#include "tiles/residual_bfloat16_scratch.h"
#include "tiles/residual_bfloat16_weights.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// A `Middle` makes its rows:
//
//   static constexpr bool kIsFirst     // of one input channel
//   static constexpr bool kMultiplies  // else no multiply()
//   void begin_row(strip, rows, h)
//   void multiply(step, output, work)  // sums, with work() meanwhile
//   void make(step, output, unit, to)  // of the last sums, if it multiplies
//
// Blocks of one convolution follow each other, so that its weights stay in the
// nearest cache.
template <bool kChooses, class Middle>
class Walk {
 public:
  Walk(const ResidualBfloat16Params& params,
       const ForwardWeights& weights,
       const Strip& strip,
       const WalkScratch& s,
       Middle& middle)
      : params_(params),
        weights_(weights),
        strip_(strip),
        s_(s),
        middle_(middle),
        pool_(params, strip, weights.start2, s.sums2) {}

  void run() {
    for (int32_t h = 0; h < params_.height + kRing - 1; ++h) {
      const bool has_middle = h <= params_.height;
      if (h < params_.height)
        rows_.load(params_, strip_, s_, h);
      made_ = s_.middle[h % kRing];
      if (has_middle)
        middle_.begin_row(strip_, rows_, h);
      for (int64_t output = 0; output < params_.outputs;
           output += kSumOutputs) {
        if constexpr (Middle::kMultiplies)
          if (has_middle)
            multiply_middle(output);
        multiply_out(h - (kRing - 1), output,
                     !Middle::kMultiplies && has_middle);
      }
      if (has_middle)
        pad_middle(params_, strip_, made_);
    }
    work_off();
  }

 private:
  // What waits is done while the next block is multiplied: within its loop,
  // since with calls between products one input channel took some 4% longer.
  [[gnu::always_inline]] void work(int32_t unit) const {
    pool_.run(unit);
    if (makes_)
      middle_.make(step_, output_, unit, made_);
  }

  void done() {
    pool_.done();
    makes_ = false;
  }

  void work_off() {
    for (int32_t unit = 0; unit < kUnits; ++unit)
      work(unit);
    done();
  }

  void wait_to_make(int64_t step, int64_t output) {
    makes_ = true;
    step_ = step;
    output_ = output;
  }

  void multiply_middle(int64_t output) {
    for (int64_t step = 0; step < strip_.covered(); step += kSumSteps) {
      middle_.multiply(step, output, [&](int32_t unit) { work(unit); });
      done();
      wait_to_make(step, output);
    }
  }

  // Of row h of the result, while a row of the middle is made if `makes`.
  void multiply_out(int32_t h, int64_t output, bool makes) {
    for (int64_t step = 0; step < strip_.covered(); step += kSumSteps) {
      if (makes)
        wait_to_make(step, output);
      if (h < 0) {
        work_off();
        continue;
      }
      const TileTerm terms[] = {
          term_of(weights_.conv2, s_.middle[h % kRing], output, 0),
          term_of(weights_.conv2, s_.middle[(h + 1) % kRing], output, 1),
          Middle::kIsFirst
              ? TileTerm{nullptr, nullptr, 0, 0}
              : shortcut_term(params_, weights_,
                              rows_.of[h % kInputRing] +
                                  (kInputHalo - 1) * params_.inputs,
                              output)};
      multiply_terms(terms, step, s_.sums2, [&](int32_t unit) { work(unit); });
      done();
      pool_.wait(h, step, output,
                 Middle::kIsFirst ? rows_.first[h % kInputRing] + kInputHalo - 1
                                  : nullptr);
    }
  }

  const ResidualBfloat16Params& params_;
  const ForwardWeights& weights_;
  const Strip& strip_;
  const WalkScratch& s_;
  Middle& middle_;
  Pool<Middle::kIsFirst, kChooses> pool_;
  InputRows rows_{};
  uint16_t* made_ = nullptr;
  bool makes_ = false;
  int64_t step_ = 0;
  int64_t output_ = 0;
};

// The middle of one input channel, computed from x.
class FirstMiddle {
 public:
  static constexpr bool kIsFirst = true;
  static constexpr bool kMultiplies = false;

  explicit FirstMiddle(const ResidualBfloat16Params& params)
      : height_(params.height) {
    const ScaledNorm norm = scaled_norm(params);
    conv1_ = first_convolution(params.conv1, norm.scale, norm.shift);
  }

  void begin_row(const Strip&, const InputRows& rows, int32_t h) {
    static const float kZeros[kMostSteps + kInputHalo + kTapHalo] = {};
    above_ = h > 0 ? rows.first[(h - 1) % kInputRing] : kZeros;
    own_ = h < height_ ? rows.first[h % kInputRing] : kZeros;
  }

  void make(int64_t step, int64_t, int32_t unit, uint16_t* to) const {
    const int32_t v = unit % kSumVectors;
    const int64_t t = step + unit / kSumVectors * kPoolSteps;
    Vector<float> values[kPoolSteps];
    conv1_.of[v].apply(above_ + t, own_ + t, values);
    apply_selu(values);
    for (int i = 0; i < kPoolSteps; ++i)
      store_bfloat16(to + (t + i) * kFirstOutputs + v * kLanes<float>,
                     values[i]);
  }

 private:
  int32_t height_;
  FirstConvolution conv1_;
  const float* above_ = nullptr;
  const float* own_ = nullptr;
};

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
