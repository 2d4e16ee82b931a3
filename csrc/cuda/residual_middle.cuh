// The middle of a residual block, conv1(x): kept, or computed anew.
//
//   lane(channel)                   what a thread keeps for channels it always
//                                   works on
//   fetch(at, channel)              starts the loads
//   make(lane, fetched, to)         kCount values, from `channel` on
//   affine_lane(), make_affine()    the same of scale (channels) times the
//                                   middle plus shift
#pragma once

#include "bfloat16_channels.cuh"
#include "residual_block_bfloat16.h"

namespace sparse_aasist {

struct StoredMiddle {
  const uint16_t* data;
  Image image;

  template <int kCount>
  struct Lane {};
  // Read where it is used: registers are what these kernels are short of.
  template <int kCount>
  struct AffineLane {
    const float* scale;
    const float* shift;
  };
  template <int kCount>
  using Fetched = Channels<kCount>;

  template <int kCount>
  __device__ Lane<kCount> lane(int32_t) const {
    return {};
  }
  // scale (channels) times the middle plus shift.
  template <int kCount>
  __device__ AffineLane<kCount> affine_lane(const float* scale,
                                            const float* shift,
                                            int32_t channel) const {
    return {scale + channel, shift + channel};
  }
  template <int kCount>
  __device__ Fetched<kCount> fetch(const Position& at, int32_t channel) const {
    return load_channels<kCount>(data + image.offset(at, channel));
  }
  template <int kCount>
  __device__ void make(const Lane<kCount>&,
                       const Fetched<kCount>& fetched,
                       float (&to)[kCount]) const {
    unpack(fetched, to);
  }
  template <int kCount>
  __device__ void make_affine(const AffineLane<kCount>& lane,
                              const Fetched<kCount>& fetched,
                              float (&to)[kCount]) const {
    float scale[kCount], shift[kCount];
    load_floats(lane.scale, scale);
    load_floats(lane.shift, shift);
    make(Lane<kCount>{}, fetched, to);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      to[i] = to[i] * scale[i] + shift[i];
  }
};

// Of one input channel, computed again wherever it is needed.
struct FirstMiddle {
  const uint16_t* x;
  Image image;  // of x
  Convolution conv1;

  static constexpr int kTaps = 6;
  static constexpr int kChannels = 32;  // of the middle
  template <int kCount>
  struct Lane {
    float weight[kCount][kTaps];
    float bias[kCount];
  };
  template <int kCount>
  using AffineLane = Lane<kCount>;
  // Of x: rows i - 1 and i, three steps of each.
  template <int kCount>
  using Fetched = Channels<kTaps>;

  template <int kCount>
  __device__ Lane<kCount> lane(int32_t channel) const {
    Lane<kCount> lane;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap)
        lane.weight[i][tap] = conv1.weight[(channel + i) * kTaps + tap];
      lane.bias[i] = conv1.bias[channel + i];
    }
    return lane;
  }
  // Scale and shift become part of the weights.
  template <int kCount>
  __device__ Lane<kCount> affine_lane(const float* scale,
                                      const float* shift,
                                      int32_t channel) const {
    Lane<kCount> of = lane<kCount>(channel);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap)
        of.weight[i][tap] *= scale[channel + i];
      of.bias[i] = of.bias[i] * scale[channel + i] + shift[channel + i];
    }
    return of;
  }
  template <int kCount>
  __device__ Channels<kTaps> fetch(const Position& at, int32_t) const {
    const int32_t steps = static_cast<int32_t>(image.steps);
    const uint16_t* const own = x + image.offset(at, 0);
    const bool left = at.step > 0, right = at.step + 1 < steps;
    uint32_t values[kTaps] = {};
    if (at.row > 0) {
      const uint16_t* const above = own - steps;
      if (left)
        values[0] = above[-1];
      values[1] = above[0];
      if (right)
        values[2] = above[1];
    }
    if (at.row < image.height) {
      if (left)
        values[3] = own[-1];
      values[4] = own[0];
      if (right)
        values[5] = own[1];
    }
    return {{values[0] | values[1] << 16, values[2] | values[3] << 16,
             values[4] | values[5] << 16}};
  }
  template <int kCount>
  __device__ void make(const Lane<kCount>& lane,
                       const Channels<kTaps>& fetched,
                       float (&to)[kCount]) const {
    float values[kTaps];
    unpack(fetched, values);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[i] = lane.bias[i];
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap)
        to[i] += lane.weight[i][tap] * values[tap];
    }
  }
  template <int kCount>
  __device__ void make_affine(const Lane<kCount>& lane,
                              const Channels<kTaps>& fetched,
                              float (&to)[kCount]) const {
    make(lane, fetched, to);
  }
};

}  // namespace sparse_aasist
