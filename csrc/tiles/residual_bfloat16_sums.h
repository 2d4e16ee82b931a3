// Sums over all steps that statistics come from, in float64 by group of tasks.
// Each is of values less one near their mean: squares of large means would
// leave no digits to the variance.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Of a channel, over steps.
struct Moments {
  double sums[kMostWidth];
  double squares[kMostWidth];
};

// With one input channel the middle is a sum over six taps: what its moments
// are follows from those of taps, far fewer than channels.
struct TapMoments {
  double sums[kFirstTaps];
  double products[kFirstTaps][kFirstTaps];  // of a tap and those up to it
};

struct GroupSums {
  Moments middle;
  Moments input;
  TapMoments taps;
};

inline GroupSums* group_sums(const ResidualStatisticsParams& statistics) {
  return reinterpret_cast<GroupSums*>(statistics.partials);
}

// conv1's bias for the middle, the first step for the input.
struct Pivots {
  float middle[kMostWidth];
  float input[kMostWidth];
};

// Of the input the mean of its first steps: of a single one an outlier would
// take the digits of all others.
inline Pivots pivots_of(const ResidualBfloat16Params& params) {
  constexpr int64_t kFirstSteps = 64;
  const int64_t steps = params.steps < kFirstSteps ? params.steps : kFirstSteps;
  Pivots pivots{};
  for (int32_t o = 0; o < params.outputs; ++o)
    pivots.middle[o] = params.conv1.bias[o];
  for (int64_t t = 0; t < steps; ++t)
    for (int32_t i = 0; i < params.inputs; ++i)
      pivots.input[i] +=
          float_of(params.x[t * params.inputs + i]) / static_cast<float>(steps);
  return pivots;
}

// Of a row of kSumOutputs channels, in float32.
struct RowMoments {
  Vector<float> sums[kSumVectors];
  Vector<float> squares[kSumVectors];

  template <int kCount>
  void add(int v, const Vector<float> (&values)[kCount], Vector<float> pivot) {
    Vector<float> sum = values[0] - pivot, square = sum * sum;
    for (int i = 1; i < kCount; ++i) {
      const Vector<float> value = values[i] - pivot;
      sum += value;
      square += value * value;
    }
    sums[v] += sum;
    squares[v] += square;
  }

  // Begins anew.
  void move_to(int64_t channel, Moments& moments) {
    for (int v = 0; v < kSumVectors; ++v)
      for (int lane = 0; lane < kLanes<float>; ++lane) {
        const int64_t at = channel + v * kLanes<float> + lane;
        moments.sums[at] += static_cast<double>(sums[v][lane]);
        moments.squares[at] += static_cast<double>(squares[v][lane]);
      }
    *this = {};
  }
};

// Of the taps of one input channel, by a vector of steps.
class TapSums {
 public:
  explicit TapSums(float pivot) : pivot_(splat(pivot)) {}

  // `count` steps of two rows, which begin at the first tap; a vector may be
  // read behind them. `has_own` unless the lower row is padding.
  void add(const float* above, const float* own, int64_t count, bool has_own) {
    Vector<float> lanes;
    for (int lane = 0; lane < kLanes<float>; ++lane)
      lanes[lane] = static_cast<float>(lane);
    for (int64_t t = 0; t < count; t += kLanes<float>) {
      const float left = static_cast<float>(count - t);
      Vector<float> taps[kFirstTaps];
      for (int tap = 0; tap < kFirstTaps; ++tap) {
        const float* const row = tap < kTaps ? above : own;
        const Vector<float> value = load(row + t + tap % kTaps) - pivot_;
        taps[tap] = lanes < left ? value : splat(0.0f);
      }
      for (int a = 0; a < kFirstTaps; ++a) {
        sums_[a] += taps[a];
        for (int b = 0; b <= a; ++b)
          products_[a][b] += taps[a] * taps[b];
      }
      if (has_own) {
        constexpr int kCentre = kTaps + kTaps / 2;
        input_sum_ += taps[kCentre];
        input_square_ += taps[kCentre] * taps[kCentre];
      }
    }
  }

  // Begins anew.
  void move_to(GroupSums& group) {
    const auto move = [](Vector<float>& from, double& to) {
      to += static_cast<double>(sum_lanes<float>(from));
      from = Vector<float>{};
    };
    for (int a = 0; a < kFirstTaps; ++a) {
      move(sums_[a], group.taps.sums[a]);
      for (int b = 0; b <= a; ++b)
        move(products_[a][b], group.taps.products[a][b]);
    }
    move(input_sum_, group.input.sums[0]);
    move(input_square_, group.input.squares[0]);
  }

 private:
  Vector<float> pivot_;
  Vector<float> sums_[kFirstTaps] = {};
  Vector<float> products_[kFirstTaps][kFirstTaps] = {};
  Vector<float> input_sum_ = {}, input_square_ = {};
};

// Of the middle less its bias and, by the sum of its weights, the pivot.
inline void moments_of_taps(const ResidualBfloat16Params& params,
                            const TapMoments& taps,
                            Moments& middle) {
  for (int32_t o = 0; o < params.outputs; ++o) {
    const float* const weight = params.conv1.weight + o * kFirstTaps;
    double sum = 0, square = 0;
    for (int a = 0; a < kFirstTaps; ++a) {
      sum += weight[a] * taps.sums[a];
      for (int b = 0; b <= a; ++b)
        square +=
            (a == b ? 1.0 : 2.0) * weight[a] * weight[b] * taps.products[a][b];
    }
    middle.sums[o] = sum;
    middle.squares[o] = square;
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
