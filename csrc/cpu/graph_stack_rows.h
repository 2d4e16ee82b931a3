// What graph_stack needs between its graph ops, with and without gradients.
#pragma once

#include <cstdint>

#include "graph_pairs.h"
#include "graph_stack.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Calls run(format) for float64 or float32.
template <class Run>
inline void with_real(FloatFormat format, const Run& run) {
  if (is_double(format))
    run(Float64{});
  else
    run(Float32{});
}

// (outputs, inputs) -> (inputs, padded outputs), each output times its scale;
// null: none.
template <class T>
inline void pack_weight(const void* weight,
                        int64_t inputs,
                        int64_t outputs,
                        const T* scale,
                        T* to) {
  const T* from = static_cast<const T*>(weight);
  const int64_t width = padded(outputs);
  for (int64_t o = 0; o < width; ++o) {
    const T factor = o >= outputs ? 0 : scale == nullptr ? 1 : scale[o];
    for (int64_t i = 0; i < inputs; ++i)
      to[i * width + o] = o >= outputs ? 0 : factor * from[o * inputs + i];
  }
}

// As torch.maximum: NaN if one is.
template <class T>
inline T higher_or_nan(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}

// As an integer, a magnitude is in the order of its value, NaN above all.
template <class Bits>
constexpr Bits kMagnitude =
    static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));

// The largest magnitude of some entries and where the first such one is.
template <class Bits>
struct Largest {
  Bits magnitude;
  int32_t index;
};

template <class Bits>
inline Largest<Bits> largest_of(const Bits* from,
                                int64_t count,
                                int64_t stride) {
  Largest<Bits> largest{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const Bits magnitude = from[i * stride] & kMagnitude<Bits>;
    if (magnitude > largest.magnitude)
      largest = {magnitude, static_cast<int32_t>(i)};
  }
  return largest;
}

// Likewise, lane by lane.
template <class Bits>
struct LargestLanes {
  Vector<Bits> magnitudes, indices;

  void add(const Bits* from, Vector<Bits> index) {
    const Vector<Bits> next = load(from) & splat(kMagnitude<Bits>);
    indices = next > magnitudes ? index : indices;
    magnitudes = higher<Bits>(next, magnitudes);
  }
};

// The lowest lane.
template <class Bits>
inline Bits min_lanes(Vector<Bits> vector) {
  Bits lanes[kLanes<Bits>];
  store<Bits>(lanes, vector);
  for (int half = kLanes<Bits> / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      lanes[lane] =
          lanes[lane + half] < lanes[lane] ? lanes[lane + half] : lanes[lane];
  return lanes[0];
}

template <class Bits>
inline Largest<Bits> largest_of_row(const Bits* row, int64_t count) {
  constexpr int64_t kStep = kLanes<Bits>;
  if (count < kStep)
    return largest_of<Bits>(row, count, 1);
  Vector<Bits> lanes{};
  for (int lane = 0; lane < kStep; ++lane)
    lanes[lane] = lane;
  LargestLanes<Bits> all{{}, lanes};
  for (int64_t i = 0; i < count; i += kStep) {
    // The last vector may overlap the one before.
    const int64_t first = i + kStep <= count ? i : count - kStep;
    all.add(row + first, lanes + splat(static_cast<Bits>(first)));
  }
  const Bits most = ~min_lanes<Bits>(~all.magnitudes);
  const Vector<Bits> none = splat(static_cast<Bits>(count));
  return {most, static_cast<int32_t>(min_lanes<Bits>(
                    all.magnitudes == splat(most) ? all.indices : none))};
}

// Calls take(channel, step, magnitude, band) for the largest magnitude over the
// bands and the first band that has it; for some steps twice.
template <class Format, class Take>
inline void largest_of_steps(const GraphStackParams& params,
                             int64_t clip,
                             const Take& take) {
  using Bits = typename Format::Bits;
  using T = Real<Format>;
  constexpr int64_t kStep = kLanes<Bits>;
  const int64_t bands = params.bands, steps = params.steps;
  const int64_t plane = bands * steps, channels = params.channels;
  const Bits* from = at<Bits>(params.features, clip * channels * plane);
  for (int64_t c = 0; c < channels; ++c, from += plane) {
    for (int64_t t = 0; steps < kStep && t < steps; ++t) {
      const Largest<Bits> largest = largest_of<Bits>(from + t, bands, steps);
      take(c, t, bit_cast<T>(largest.magnitude), largest.index);
    }
    for (int64_t t = 0; steps >= kStep && t < steps; t += kStep) {
      // The last vector may overlap the one before.
      const int64_t first = t + kStep <= steps ? t : steps - kStep;
      LargestLanes<Bits> all{};
      for (int64_t f = 0; f < bands; ++f)
        all.add(from + f * steps + first, splat(static_cast<Bits>(f)));
      Bits most[kStep], found[kStep];
      store<Bits>(most, all.magnitudes);
      store<Bits>(found, all.indices);
      for (int64_t lane = 0; lane < kStep; ++lane)
        take(c, first + lane, bit_cast<T>(most[lane]),
             static_cast<int32_t>(found[lane]));
    }
  }
}

// Likewise take(channel, band, magnitude, step), over the steps.
template <class Format, class Take>
inline void largest_of_bands(const GraphStackParams& params,
                             int64_t clip,
                             const Take& take) {
  using Bits = typename Format::Bits;
  const int64_t channels = params.channels, bands = params.bands;
  const int64_t steps = params.steps;
  const Bits* row = at<Bits>(params.features, clip * channels * bands * steps);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t f = 0; f < bands; ++f, row += steps) {
      const Largest<Bits> largest = largest_of_row<Bits>(row, steps);
      take(c, f, bit_cast<Real<Format>>(largest.magnitude), largest.index);
    }
  }
}

// What each branch reads out of a node, or of the master: a sum of two rows.
template <class T>
struct BranchSums {
  const T* rows[kHalves][2];

  T operator()(int32_t branch, int32_t o) const {
    return rows[branch][0][o] + rows[branch][1][o];
  }
};

// Of node i of a type, of what the pool gives and the last layer.
template <class T>
inline BranchSums<T> sums_of_node(const GraphStackParams& params,
                                  int64_t clip,
                                  int32_t type,
                                  int64_t i) {
  BranchSums<T> sums;
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    const StackPool(&pools)[kHalves] = params.pools[branch];
    const StackLayer& last = params.joint[branch][1];
    const int64_t hidden = last.attention.hidden;
    const int64_t node = (type == 0 ? 0 : pools[0].kept) + i;
    sums.rows[branch][0] =
        at<T>(pools[type].out, (clip * pools[type].kept + i) * hidden);
    sums.rows[branch][1] =
        at<T>(last.out, (clip * last.attention.nodes + node) * hidden);
  }
  return sums;
}

// Of the master, of what both layers give.
template <class T>
inline BranchSums<T> sums_of_master(const GraphStackParams& params,
                                    int64_t clip) {
  BranchSums<T> sums;
  for (int32_t branch = 0; branch < kHalves; ++branch)
    for (int32_t depth = 0; depth < kDepths; ++depth) {
      const StackLayer& layer = params.joint[branch][depth];
      sums.rows[branch][depth] =
          at<T>(layer.master_out, clip * layer.attention.hidden);
    }
  return sums;
}

// The largest magnitude and the mean of a type's nodes, and of which node the
// magnitude is, the first of equals; of_node(i) is as BranchSums.
template <class T, class Nodes>
inline void read_type(int32_t kept,
                      int32_t hidden,
                      const Nodes& of_node,
                      T* out,
                      int32_t* largest) {
  // On the stack, where nothing else can lie.
  T most[kMaxWidth] = {};
  T sums[kMaxWidth] = {};
  int32_t found[kMaxWidth] = {};
  for (int32_t i = 0; i < kept; ++i) {
    const auto node = of_node(i);
    for (int32_t o = 0; o < hidden; ++o) {
      const T value = higher_or_nan<T>(node(0, o), node(1, o));
      const T magnitude = value < 0 ? -value : value;
      const bool is_nan = (magnitude != magnitude) & (most[o] == most[o]);
      const bool rises = (magnitude > most[o]) | is_nan;
      found[o] = rises ? i : found[o];
      most[o] = rises ? magnitude : most[o];
      sums[o] += value;
    }
  }
  for (int32_t o = 0; o < hidden; ++o) {
    out[o] = most[o];
    out[hidden + o] = sums[o] / static_cast<T>(kept);
    largest[o] = found[o];
  }
}

// The readout of a clip: of_node(type, i) and of_master are as BranchSums;
// `largest`: (kHalves, hidden).
template <class T, class Nodes, class Master>
inline void read_out(const GraphStackParams& params,
                     int64_t clip,
                     const Nodes& of_node,
                     const Master& of_master,
                     int32_t* largest) {
  const int32_t hidden = params.joint[0][0].attention.hidden;
  T* out = at<T>(params.readout, clip * kReadoutBlocks * hidden);
  for (int32_t type = 0; type < kHalves; ++type)
    read_type<T>(
        params.pools[0][type].kept, hidden,
        [&](int32_t i) { return of_node(type, i); }, out + 2 * type * hidden,
        largest + type * hidden);
  for (int32_t o = 0; o < hidden; ++o)
    out[4 * hidden + o] = higher_or_nan<T>(of_master(0, o), of_master(1, o));
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
