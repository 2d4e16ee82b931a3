// What becomes of a complete row of a convolution (residual_convolution.cuh).
//
//   lane(channel)                   what a thread keeps, for four channels
//   fetch(lane, at, to)             starts the loads
//   take(lane, at, fetched, sums)   writes the row
//   finish(lane, index)             at the end, once
#pragma once

#include "residual_convolution.cuh"
#include "row_access.cuh"

namespace sparse_aasist {

template <class Run>
__device__ __forceinline__ void for_own_steps(const Run& run) {
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int j = 0; j < kPoolSteps; ++j)
      run(h, j);
}

// Sums over a lane's results, of four channels: two kinds. A warp adds those of
// its lanes and writes row `index` of partials (rows, 2, channels).
struct ChannelSums {
  float sums[2][4] = {};

  __device__ void add(int channel, float a, float b) {
    sums[0][channel] += a;
    sums[1][channel] += b;
  }

  __device__ void finish(float* partials,
                         int64_t index,
                         int32_t channel,
                         int32_t channels) {
#pragma unroll
    for (int kind = 0; kind < 2; ++kind)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = sums[kind][i];
        for (int lanes = 4; lanes < 32; lanes *= 2)
          sum += __shfl_xor_sync(kAllLanes, sum, lanes);
        if (threadIdx.x % 32 < 4)
          partials[(2 * index + kind) * channels + channel + i] = sum;
      }
  }
};

// Rows of the middle; sums of what is written, less the bias, and of its
// squares, where the statistics are wanted.
struct MiddleSink {
  uint16_t* to;
  Image image;
  const float* bias;
  float* partials;  // null without statistics

  struct Lane {
    int32_t channel;
    float bias[4];
    ChannelSums sums;
  };

  __device__ Lane lane(int32_t channel) const {
    Lane lane{};
    lane.channel = channel;
    for (int i = 0; i < 4; ++i)
      lane.bias[i] = bias[channel + i];
    return lane;
  }

  struct Fetched {};
  __device__ void fetch(const Lane&, const SinkAt&, Fetched&) const {}

  __device__ void take(Lane& lane,
                       const SinkAt& at,
                       const Fetched&,
                       const Accumulators<2>& sums) const {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < kPoolSteps; ++j) {
        const int32_t step = at.step(h, j);
        if (step >= at.past)
          continue;
        float values[4];
        results_at<2>(sums, h, j, values);
        for (int i = 0; i < 4; ++i)
          values[i] += lane.bias[i];
        const Channels<4> rounded = pack(values);
        store_channels(to + image.offset({at.clip, at.row, step}, lane.channel),
                       rounded);
        if (partials != nullptr) {
          unpack(rounded, values);
          for (int i = 0; i < 4; ++i) {
            const float from_bias = values[i] - lane.bias[i];
            lane.sums.add(i, from_bias, from_bias * from_bias);
          }
        }
      }
  }

  __device__ void finish(Lane& lane, int64_t index) const {
    if (partials != nullptr)
      lane.sums.finish(partials, index, lane.channel, image.channels);
  }
};

// The result of a block: the largest of three steps, the first of equal ones,
// NaN above all.
template <bool kIdentity>
struct PoolSink {
  uint16_t* out;
  uint8_t* chosen;  // null without gradients
  Image image;      // of both
  const float* bias;
  const float* shortcut_bias;  // null with kIdentity
  const uint16_t* x;           // with kIdentity
  Image x_image;

  struct Lane {
    int32_t channel;
    float bias[4];
  };

  __device__ Lane lane(int32_t channel) const {
    Lane lane{};
    lane.channel = channel;
    for (int i = 0; i < 4; ++i) {
      lane.bias[i] = bias[channel + i];
      if constexpr (!kIdentity)
        lane.bias[i] += shortcut_bias[channel + i];
    }
    return lane;
  }

  struct Fetched {
    Channels<4> x[2][kPoolSteps];
  };
  __device__ void fetch(const Lane& lane, const SinkAt& at, Fetched& to) const {
    if constexpr (kIdentity)
      for_own_steps([&](int h, int j) {
        if (at.step(h, 0) + kPoolSteps <= at.past)
          to.x[h][j] = load_channels<4>(
              x +
              x_image.offset({at.clip, at.row, at.step(h, j)}, lane.channel));
      });
  }

  __device__ void take(Lane& lane,
                       const SinkAt& at,
                       const Fetched& fetched,
                       const Accumulators<2>& sums) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int32_t pooled = at.step(h, 0) / kPoolSteps;
      if (pooled >= at.past / kPoolSteps)
        continue;
      float best[4];
      uint32_t winners = 0;
#pragma unroll
      for (int j = 0; j < kPoolSteps; ++j) {
        float values[4];
        results_at<2>(sums, h, j, values);
        if constexpr (kIdentity) {
          float added[4];
          unpack(fetched.x[h][j], added);
          for (int i = 0; i < 4; ++i)
            values[i] += added[i];
        }
        for (int i = 0; i < 4; ++i) {
          const bool better =
              j == 0 || values[i] > best[i] || values[i] != values[i];
          if (better) {
            best[i] = values[i];
            winners = (winners & ~(0xffu << 8 * i)) | static_cast<uint32_t>(j)
                                                          << 8 * i;
          }
        }
      }
      for (int i = 0; i < 4; ++i)
        best[i] += lane.bias[i];
      const int64_t offset =
          image.offset({at.clip, at.row, pooled}, lane.channel);
      store_channels(out + offset, pack(best));
      if (chosen != nullptr)
        *reinterpret_cast<uint32_t*>(chosen + offset) = winners;
    }
  }

  __device__ void finish(Lane&, int64_t) const {}
};

// The gradient of the normalised middle, of that after SELU; sums of what is
// written, and of it times the middle's distance from its mean.
template <class Middle>
struct NormalGradientSink {
  uint16_t* to;
  Image image;
  Middle middle;
  const float* affine;  // (2, channels)
  const float* mean;
  float* partials;

  struct Lane {
    int32_t channel;
    typename Middle::template Lane<4> middle;
    float scale[4], shift[4], mean[4];
    ChannelSums sums;
  };

  __device__ Lane lane(int32_t channel) const {
    Lane lane{};
    lane.channel = channel;
    lane.middle = middle.template lane<4>(channel);
    for (int i = 0; i < 4; ++i) {
      lane.scale[i] = affine[channel + i];
      lane.shift[i] = affine[image.channels + channel + i];
      lane.mean[i] = mean[channel + i];
    }
    return lane;
  }

  struct Fetched {
    typename Middle::template Fetched<4> middle[2][kPoolSteps];
  };
  __device__ void fetch(const Lane& lane, const SinkAt& at, Fetched& to) const {
    for_own_steps([&](int h, int j) {
      if (at.step(h, j) < at.past)
        to.middle[h][j] = middle.template fetch<4>(
            {at.clip, at.row, at.step(h, j)}, lane.channel);
    });
  }

  __device__ void take(Lane& lane,
                       const SinkAt& at,
                       const Fetched& fetched,
                       const Accumulators<2>& sums) const {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < kPoolSteps; ++j) {
        const Position position = {at.clip, at.row, at.step(h, j)};
        if (position.step >= at.past)
          continue;
        float values[4], gradients[4];
        middle.make(lane.middle, fetched.middle[h][j], values);
        results_at<2>(sums, h, j, gradients);
        for (int i = 0; i < 4; ++i)
          gradients[i] *=
              fast_selu_slope(values[i] * lane.scale[i] + lane.shift[i]);
        const Channels<4> rounded = pack(gradients);
        store_channels(to + image.offset(position, lane.channel), rounded);
        unpack(rounded, gradients);
        for (int i = 0; i < 4; ++i)
          lane.sums.add(i, gradients[i],
                        gradients[i] * (values[i] - lane.mean[i]));
      }
  }

  __device__ void finish(Lane& lane, int64_t index) const {
    lane.sums.finish(partials, index, lane.channel, image.channels);
  }
};

// The gradient of x; with kIdentity x was added before the pool.
template <bool kIdentity, int kTiles>
struct InputGradientSink {
  static constexpr int kCount = 2 * kTiles;
  uint16_t* to;
  Image image;
  Unpooled added;  // with kIdentity

  struct Lane {
    int32_t channel;
  };

  __device__ Lane lane(int32_t channel) const { return {channel}; }

  struct Fetched {
    Unpooled::Fetched<kCount> pooled[2];
  };
  __device__ void fetch(const Lane& lane, const SinkAt& at, Fetched& to) const {
    if constexpr (kIdentity)
      for (int h = 0; h < 2; ++h)
        to.pooled[h] =
            added.fetch<kCount>({at.clip, at.row, at.step(h, 0)}, lane.channel);
  }

  __device__ void take(Lane& lane,
                       const SinkAt& at,
                       const Fetched& fetched,
                       const Accumulators<kTiles>& sums) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < kPoolSteps; ++j) {
        const Position position = {at.clip, at.row, at.step(h, j)};
        if (position.step >= at.past)
          continue;
        float values[kCount];
        results_at<kTiles>(sums, h, j, values);
        if constexpr (kIdentity) {
          float grads[kCount];
          unpack(Unpooled::make(fetched.pooled[h], j), grads);
          for (int i = 0; i < kCount; ++i)
            values[i] += grads[i];
        }
        store_channels(to + image.offset(position, lane.channel), pack(values));
      }
    }
  }

  __device__ void finish(Lane&, int64_t) const {}
};

// The same of a single channel, the first of kPaddedInput.
struct FirstInputGradientSink {
  uint16_t* to;
  Image image;

  struct Lane {
    int32_t channel;
  };

  __device__ Lane lane(int32_t channel) const { return {channel}; }

  struct Fetched {};
  __device__ void fetch(const Lane&, const SinkAt&, Fetched&) const {}

  __device__ void take(Lane& lane,
                       const SinkAt& at,
                       const Fetched&,
                       const Accumulators<1>& sums) const {
    if (lane.channel != 0)
      return;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < kPoolSteps; ++j) {
        const int32_t step = at.step(h, j);
        if (step < at.past)
          to[image.offset({at.clip, at.row, step}, 0)] =
              static_cast<uint16_t>(pack_bfloat16(sums[j][0][2 * h], 0.0f));
      }
  }

  __device__ void finish(Lane&, int64_t) const {}
};

}  // namespace sparse_aasist
