// From the normalised middle on: SELU, conv2, shortcut and pool. A task walks
// down the rows of a strip of time. conv2 is a row behind the middle, so that
// its products and the making of the next row go on at the same time.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_strip.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// A block of sums that waits to be pooled.
template <bool kIsFirst, bool kChooses>
class Pool {
 public:
  Pool(const ResidualBfloat16Params& params,
       const PoolStrip& strip,
       const float* start,
       const float* sums)
      : params_(params), strip_(strip), start_(start), sums_(sums) {
    if constexpr (kIsFirst)
      shortcut_ = first_shortcut(params);
  }

  // `first` is the row of a single input channel.
  void wait(int32_t h, int64_t step, int64_t output, const float* first) {
    const int64_t pool = step / kPoolSteps;
    waiting_ = strip_.pools - pool;
    first_ = first + step + kInputHalo - 1;
    bias_ = start_ + output;
    at_ = ((strip_.clip * params_.height + h) * (params_.steps / kPoolSteps) +
           strip_.first + pool) *
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
  const PoolStrip& strip_;
  const float* start_;
  const float* sums_;
  FirstShortcut shortcut_;
  const float* bias_ = nullptr;
  const float* first_ = nullptr;
  int64_t waiting_ = 0;  // pools
  int64_t at_ = 0;
};

// A `Middle` makes its rows:
//
//   static constexpr bool kIsFirst     // of one input channel
//   static constexpr bool kMultiplies  // sums are computed, then made
//   void begin_row(strip, rows, h)
//   void multiply(step, output, work)  // sums, and what is to be done
//   meanwhile void make(step, output, unit, to)  // of the last sums
//
// Blocks of one convolution follow each other, so that its weights stay in the
// nearest cache.
template <bool kChooses, class Middle>
class Walk {
 public:
  Walk(const ResidualBfloat16Params& params,
       const TilePlan& plan,
       const PoolStrip& strip,
       const WalkScratch& s,
       Middle& middle)
      : params_(params),
        plan_(plan),
        strip_(strip),
        s_(s),
        middle_(middle),
        pool_(params, strip, plan.start2, s.sums2) {}

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
        if (Middle::kMultiplies && has_middle)
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
  // What waits is done while the next block is multiplied.
  void work(int32_t unit) const {
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
          term_of(plan_.conv2, s_.middle[h % kRing], output, 0),
          term_of(plan_.conv2, s_.middle[(h + 1) % kRing], output, 1),
          Middle::kIsFirst
              ? TileTerm{nullptr, nullptr, 0, 0}
              : shortcut_term(params_, plan_,
                              rows_.of[h % kInputRing] +
                                  (kInputHalo - 1) * params_.inputs,
                              output)};
      multiply_terms(terms, step, s_.sums2, [&](int32_t unit) { work(unit); });
      done();
      pool_.wait(h, step, output, rows_.first[h % kInputRing]);
    }
  }

  const ResidualBfloat16Params& params_;
  const TilePlan& plan_;
  const PoolStrip& strip_;
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
    float shift[kFirstOutputs];
    for (int32_t o = 0; o < kFirstOutputs; ++o)
      shift[o] = params.conv1.bias[o] * norm.scale[o] + norm.shift[o];
    conv1_ = first_convolution(params, norm.scale, shift);
  }

  void begin_row(const PoolStrip&, const InputRows& rows, int32_t h) {
    static const float kZeros[kMostSteps + kInputHalo + kTapHalo] = {};
    above_ = h > 0 ? rows.first[(h - 1) % kInputRing] : kZeros;
    own_ = h < height_ ? rows.first[h % kInputRing] : kZeros;
  }

  template <class Work>
  void multiply(int64_t, int64_t, const Work&) const {}

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
