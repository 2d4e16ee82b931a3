// residual_block_training in bfloat16 on a CPU, forward.
#include "residual_block_bfloat16.h"
#include "residual_block_training.h"
#include "tiles/residual_bfloat16_sums.h"
#include "tiles/residual_bfloat16_walk.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// conv1 of a strip's rows, stored, and its sums. A block of sums waits until
// the next one is multiplied.
class MiddleTask {
 public:
  MiddleTask(const ResidualBfloat16Params& params,
             const ForwardWeights& weights,
             const Pivots& pivots,
             const Strip& strip,
             const WalkScratch& s,
             GroupSums& sums)
      : params_(params),
        weights_(weights),
        pivots_(pivots),
        strip_(strip),
        s_(s),
        sums_(sums) {}

  void run() {
    for (int32_t h = 0; h <= params_.height; ++h) {
      if (h < params_.height)
        rows_[h % 2] = steps_of(params_.x + input_row(params_, strip_, h),
                                params_.steps, params_.inputs, strip_.begin - 1,
                                strip_.covered() + kTapHalo, s_.input[h % 2]);
      for (int64_t output = 0; output < params_.outputs;
           output += kSumOutputs) {
        multiply(h, output);
        finish_row(output);
      }
    }
  }

 private:
  void multiply(int32_t h, int64_t output) {
    const TileTerm terms[] = {
        term_of(weights_.conv1, h > 0 ? rows_[(h + 1) % 2] : nullptr, output,
                0),
        term_of(weights_.conv1, h < params_.height ? rows_[h % 2] : nullptr,
                output, 1)};
    for (int64_t step = 0; step < strip_.covered(); step += kSumSteps) {
      multiply_terms(terms, step, s_.sums1, [&](int32_t unit) { work(unit); });
      wait(h, step, output);
    }
  }

  void wait(int32_t h, int64_t step, int64_t output) {
    waiting_ = strip_.count - step;
    output_ = output;
    to_ = params_.middle + middle_row(params_, strip_, h) +
          (strip_.begin + step) * params_.outputs + output;
    own_ = h < params_.height && output < params_.inputs
               ? rows_[h % 2] + (step + 1) * params_.inputs + output
               : nullptr;
  }

  void finish_row(int64_t output) {
    for (int32_t unit = 0; unit < kUnits; ++unit)
      work(unit);
    waiting_ = 0;
    middle_.move_to(output, sums_.middle);
    if (output < params_.inputs)
      input_.move_to(output, sums_.input);
  }

  void work(int32_t unit) {
    const int32_t v = unit % kSumVectors;
    const int64_t t = unit / kSumVectors * kPoolSteps;
    const int64_t left = waiting_ - t;
    if (left >= kPoolSteps)
      work_on<kPoolSteps>(v, t);
    else
      for (int64_t i = 0; i < left; ++i)
        work_on<1>(v, t + i);
  }

  template <int kCount>
  void work_on(int v, int64_t t) {
    const int64_t lane = v * kLanes<float>;
    const Vector<float> bias = load(weights_.start1 + output_ + lane);
    Vector<float> values[kCount];
    for (int i = 0; i < kCount; ++i)
      values[i] =
          store_bfloat16(to_ + (t + i) * params_.outputs + lane,
                         load(s_.sums1 + (t + i) * kSumOutputs + lane) + bias);
    middle_.add(v, values, load(pivots_.middle + output_ + lane));
    if (own_ == nullptr)
      return;
    for (int i = 0; i < kCount; ++i)
      values[i] = load_bfloat16(own_ + (t + i) * params_.inputs + lane);
    input_.add(v, values, load(pivots_.input + output_ + lane));
  }

  const ResidualBfloat16Params& params_;
  const ForwardWeights& weights_;
  const Pivots& pivots_;
  const Strip& strip_;
  const WalkScratch& s_;
  GroupSums& sums_;
  RowMoments middle_{}, input_{};
  const uint16_t* rows_[2] = {};
  int64_t waiting_ = 0;  // steps
  int64_t output_ = 0;
  uint16_t* to_ = nullptr;
  const uint16_t* own_ = nullptr;  // null: not summed
};

// The sums of one input channel.
void sum_taps(const ResidualBfloat16Params& params,
              const Pivots& pivots,
              const Strip& strip,
              const WalkScratch& s,
              GroupSums& sums) {
  constexpr int64_t kSteps = kMostSteps + kTapHalo;
  TapSums taps(pivots.input[0]);
  load_first(params, strip, -1, strip.begin - 1, kSteps, s.first[1]);
  for (int32_t h = 0; h <= params.height; ++h) {
    float* const own = s.first[h % 2];
    load_first(params, strip, h, strip.begin - 1, kSteps, own);
    taps.add(s.first[(h + 1) % 2], own, strip.count, h < params.height);
  }
  taps.move_to(sums);
}

// The middle as it was stored.
class StoredMiddle {
 public:
  static constexpr bool kIsFirst = false;
  static constexpr bool kMultiplies = false;

  StoredMiddle(const ResidualBfloat16Params& params, uint16_t* room)
      : params_(params), room_(room), norm_(scaled_norm(params)) {}

  void begin_row(const Strip& strip, const InputRows&, int32_t h) {
    row_ =
        steps_of(params_.middle + middle_row(params_, strip, h), params_.steps,
                 params_.outputs, strip.begin - 1, strip.covered(), room_);
  }

  void make(int64_t step, int64_t output, int32_t unit, uint16_t* to) const {
    const int64_t o = output + unit % kSumVectors * kLanes<float>;
    const int64_t t = step + unit / kSumVectors * kPoolSteps;
    const Vector<float> scale = load(norm_.scale + o);
    const Vector<float> shift = load(norm_.shift + o);
    Vector<float> values[kPoolSteps];
    for (int i = 0; i < kPoolSteps; ++i)
      values[i] =
          load_bfloat16(row_ + (t + i) * params_.outputs + o) * scale + shift;
    apply_selu(values);
    for (int i = 0; i < kPoolSteps; ++i)
      store_bfloat16(to + (t + i) * params_.outputs + o, values[i]);
  }

 private:
  const ResidualBfloat16Params& params_;
  uint16_t* room_;
  ScaledNorm norm_;
  const uint16_t* row_ = nullptr;
};

}  // namespace

int64_t residual_training_bfloat16_partials_cpu(
    const ResidualBfloat16Params& params) {
  return residual_groups(params.batch, params.steps).count *
         static_cast<int64_t>(sizeof(GroupSums) / sizeof(float));
}

void residual_training_bfloat16_middle_cpu(
    const ResidualBfloat16Params& params,
    const ResidualStatisticsParams& statistics,
    int64_t begin,
    int64_t end,
    void* scratch) {
  const TileSession session;
  const ForwardWeights weights = forward_weights(params);
  const WalkScratch s = walk_scratch(params, scratch);
  const Pivots pivots = pivots_of(params);
  const ResidualGroups groups = residual_groups(params.batch, params.steps);
  for (int64_t group = begin; group < end; ++group) {
    GroupSums& sums = group_sums(statistics)[group];
    sums = {};
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t) {
      const Strip strip = strip_of(params, t);
      if (params.inputs == 1)
        sum_taps(params, pivots, strip, s, sums);
      else
        MiddleTask(params, weights, pivots, strip, s, sums).run();
    }
  }
}

void residual_training_bfloat16_statistics_cpu(
    const ResidualBfloat16Params& params,
    const ResidualStatisticsParams& statistics) {
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  const double* const first =
      reinterpret_cast<const double*>(group_sums(statistics));
  constexpr int64_t kSums = sizeof(GroupSums) / sizeof(double);
  GroupSums total{};
  double* const to = reinterpret_cast<double*>(&total);
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t i = 0; i < kSums; ++i)
      to[i] += first[group * kSums + i];
  Pivots pivots = pivots_of(params);
  if (params.inputs == 1) {
    moments_of_taps(params, total.taps, total.middle);
    for (int32_t o = 0; o < params.outputs; ++o)
      for (int tap = 0; tap < kFirstTaps; ++tap)
        pivots.middle[o] +=
            pivots.input[0] * params.conv1.weight[o * kFirstTaps + tap];
  }
  const auto write = [&](const Moments& moments, const float* pivot,
                         int32_t channels, int64_t height, float* means,
                         float* variances) {
    const double count =
        static_cast<double>(params.batch * params.steps * height);
    for (int32_t c = 0; c < channels; ++c) {
      const double mean = moments.sums[c] / count;
      const double variance = moments.squares[c] / count - mean * mean;
      means[c] = static_cast<float>(mean + pivot[c]);
      // Rounding may bring that of a constant below zero; NaN stays.
      variances[c] = static_cast<float>(variance < 0 ? 0 : variance);
    }
  };
  write(total.middle, pivots.middle, params.outputs, params.height + 1,
        statistics.mean, statistics.variance);
  write(total.input, pivots.input, params.inputs, params.height,
        statistics.input_mean, statistics.input_variance);
}

void residual_training_bfloat16_out_cpu(const ResidualBfloat16Params& params,
                                        int64_t begin,
                                        int64_t end,
                                        void* scratch) {
  const TileSession session;
  const ForwardWeights weights = forward_weights(params);
  const WalkScratch s = walk_scratch(params, scratch);
  const ResidualGroups groups = residual_groups(params.batch, params.steps);
  const auto run = [&](auto middle) {
    using Middle = decltype(middle);
    for (int64_t t = groups.begin(begin); t < groups.begin(end); ++t) {
      const Strip strip = strip_of(params, t);
      Walk<true, Middle>(params, weights, strip, s, middle).run();
    }
  };
  if (params.inputs == 1)
    run(FirstMiddle(params));
  else
    run(StoredMiddle(params, s.stored));
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
