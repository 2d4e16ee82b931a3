// Where the convolutions of a residual block get their rows from. A source
// makes eight neighbouring channels of a time step, in bfloat16, of what it
// fetched beforehand: the way to memory is long, and lies behind a row's
// products.
//
//   fetch(at, octet)          starts the loads
//   make(lane, fetched, at)   computes the octet; `lane` is what a thread keeps
//                             for the octet it always works on
#pragma once

#include "residual_block_cuda.h"
#include "selu.h"
#include "tensor_core.cuh"

namespace sparse_aasist {

constexpr int32_t kOctet = 8;
// Of a first block's single channel, padded for the tensor cores.
constexpr int32_t kPaddedInput = 16;

// Neighbouring channels in bfloat16.
template <int kCount>
struct alignas(2 * (kCount & -kCount)) Channels {
  uint32_t pairs[kCount / 2];
};
using Octet = Channels<kOctet>;

struct Position {
  int32_t clip;
  int32_t row;
  int32_t step;
};

// Rows of channels-last images.
struct Image {
  int32_t height;
  int32_t channels;
  int64_t steps;

  // The row in 64 bits, the same for all of a thread; the rest in 32.
  __device__ int64_t offset(const Position& at, int32_t channel) const {
    const int64_t row =
        (static_cast<int64_t>(at.clip) * height + at.row) * steps * channels;
    return row + (at.step * channels + channel);
  }
};

template <int kCount>
__device__ __forceinline__ void unpack(const Channels<kCount>& from,
                                       float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    to[2 * i] = low_bfloat16(from.pairs[i]);
    to[2 * i + 1] = high_bfloat16(from.pairs[i]);
  }
}

template <int kCount>
__device__ __forceinline__ Channels<kCount> pack(const float (&from)[kCount]) {
  Channels<kCount> to;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i)
    to.pairs[i] = pack_bfloat16(from[2 * i], from[2 * i + 1]);
  return to;
}

template <int kCount>
__device__ __forceinline__ Channels<kCount> load_channels(
    const uint16_t* data) {
  return *reinterpret_cast<const Channels<kCount>*>(data);
}

template <int kCount>
__device__ __forceinline__ void store_channels(uint16_t* data,
                                               const Channels<kCount>& from) {
  *reinterpret_cast<Channels<kCount>*>(data) = from;
}

// Neighbouring entries, the first of them at a multiple of 16 bytes.
template <int kCount>
__device__ __forceinline__ void load_floats(const float* from,
                                            float (&to)[kCount]) {
  struct alignas(16) Four {
    float values[4];
  };
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const Four four = *reinterpret_cast<const Four*>(from + i);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      to[i + j] = four.values[j];
  }
}

constexpr float kLog2E = 1.44269504088896341f;

__device__ __forceinline__ float selu(float x) {
  constexpr float kScale = kSeluScale, kBelow = kSeluScale * kSeluAlpha;
  const float below = kBelow * fast_exp2(x * kLog2E) - kBelow;
  return x > 0.0f ? kScale * x : below;
}

__device__ __forceinline__ float selu_slope(float x) {
  constexpr float kScale = kSeluScale, kBelow = kSeluScale * kSeluAlpha;
  return x > 0.0f ? kScale : kBelow * fast_exp2(x * kLog2E);
}

// The middle of a block, conv1(x), kCount neighbouring channels of it.
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
                       const Position&,
                       float (&to)[kCount]) const {
    unpack(fetched, to);
  }
  template <int kCount>
  __device__ void make_affine(const AffineLane<kCount>& lane,
                              const Fetched<kCount>& fetched,
                              const Position& at,
                              float (&to)[kCount]) const {
    float scale[kCount], shift[kCount];
    load_floats(lane.scale, scale);
    load_floats(lane.shift, shift);
    make(Lane<kCount>{}, fetched, at, to);
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
                       const Position&,
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
                              const Position& at,
                              float (&to)[kCount]) const {
    make(lane, fetched, at, to);
  }
};

// A tensor as it is.
template <int kChannels_>
struct RawRows {
  static constexpr int kChannels = kChannels_;
  static constexpr bool kComputes = false;
  const uint16_t* data;
  Image image;

  struct Lane {};
  using Fetched = Octet;

  __device__ Lane lane(int32_t) const { return {}; }
  __device__ Octet fetch(const Position& at, int32_t octet) const {
    return load_channels<kOctet>(data + image.offset(at, octet * kOctet));
  }
  __device__ Octet make(const Lane&,
                        const Octet& fetched,
                        const Position&) const {
    return fetched;
  }
};

// One channel, and fifteen of zeros.
struct PaddedRows {
  static constexpr int kChannels = kPaddedInput;
  const uint16_t* data;
  Image image;

  struct Lane {};
  using Fetched = uint32_t;

  __device__ Lane lane(int32_t) const { return {}; }
  __device__ Fetched fetch(const Position& at, int32_t octet) const {
    return octet == 0 ? data[image.offset(at, 0)] : 0u;
  }
  __device__ Octet make(const Lane&, Fetched fetched, const Position&) const {
    return {{fetched, 0u, 0u, 0u}};
  }
};

// The middle normalised, after SELU.
template <class Middle, int kChannels_>
struct ActiveRows {
  static constexpr int kChannels = kChannels_;
  static constexpr bool kComputes = true;
  Middle middle;
  const float* norm;  // (2, kChannels)

  using Lane = typename Middle::template AffineLane<kOctet>;
  using Fetched = typename Middle::template Fetched<kOctet>;

  __device__ Lane lane(int32_t octet) const {
    return middle.template affine_lane<kOctet>(norm, norm + kChannels,
                                               octet * kOctet);
  }
  __device__ Fetched fetch(const Position& at, int32_t octet) const {
    return middle.template fetch<kOctet>(at, octet * kOctet);
  }
  __device__ Octet make(const Lane& lane,
                        const Fetched& fetched,
                        const Position& at) const {
    float values[kOctet];
    middle.make_affine(lane, fetched, at, values);
#pragma unroll
    for (int i = 0; i < kOctet; ++i)
      values[i] = selu(values[i]);
    return pack(values);
  }
};

// The gradient of what was pooled: that of the result at the chosen step, zero
// at its neighbours.
struct Unpooled {
  const uint16_t* grad_out;
  const uint8_t* chosen;
  Image image;  // of both

  template <int kCount>
  struct alignas(kCount) Winners {
    uint8_t steps[kCount];
  };
  template <int kCount>
  struct Fetched {
    Channels<kCount> grad;
    Winners<kCount> winners;
  };

  // What steps `at.step` and its neighbours in the pool share.
  template <int kCount>
  __device__ Fetched<kCount> fetch(const Position& at, int32_t channel) const {
    const int32_t pooled = at.step / kPoolSteps;
    if (pooled >= image.steps)
      return {};
    const int64_t offset = image.offset({at.clip, at.row, pooled}, channel);
    return {load_channels<kCount>(grad_out + offset),
            *reinterpret_cast<const Winners<kCount>*>(chosen + offset)};
  }
  template <int kCount>
  __device__ static Channels<kCount> make(const Fetched<kCount>& fetched,
                                          uint32_t own) {
    Channels<kCount> to;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const bool low = fetched.winners.steps[2 * i] == own;
      const bool high = fetched.winners.steps[2 * i + 1] == own;
      to.pairs[i] = fetched.grad.pairs[i] &
                    ((low ? 0x0000ffffu : 0u) | (high ? 0xffff0000u : 0u));
    }
    return to;
  }
};

template <int kChannels_>
struct UnpooledRows {
  static constexpr int kChannels = kChannels_;
  static constexpr bool kComputes = true;
  Unpooled of;

  struct Lane {};
  using Fetched = Unpooled::Fetched<kOctet>;

  __device__ Lane lane(int32_t) const { return {}; }
  __device__ Fetched fetch(const Position& at, int32_t octet) const {
    return of.fetch<kOctet>(at, octet * kOctet);
  }
  __device__ Octet make(const Lane&,
                        const Fetched& fetched,
                        const Position& at) const {
    return Unpooled::make(fetched, at.step % kPoolSteps);
  }
};

// The gradient of the middle, from that of its normalised values.
template <class Middle, int kChannels_>
struct MiddleGradientRows {
  static constexpr int kChannels = kChannels_;
  static constexpr bool kComputes = true;
  Middle middle;
  const uint16_t* dnormal;
  Image image;                // of dnormal
  const float* coefficients;  // (3, kChannels)

  struct Lane {
    typename Middle::template AffineLane<kOctet> middle;
    const float* scale;
  };
  struct Fetched {
    typename Middle::template Fetched<kOctet> middle;
    Octet dnormal;
  };

  __device__ Lane lane(int32_t octet) const {
    return {middle.template affine_lane<kOctet>(coefficients + kChannels,
                                                coefficients + 2 * kChannels,
                                                octet * kOctet),
            coefficients + octet * kOctet};
  }
  __device__ Fetched fetch(const Position& at, int32_t octet) const {
    return {middle.template fetch<kOctet>(at, octet * kOctet),
            load_channels<kOctet>(dnormal + image.offset(at, octet * kOctet))};
  }
  __device__ Octet make(const Lane& lane,
                        const Fetched& fetched,
                        const Position& at) const {
    float values[kOctet], gradients[kOctet];
    middle.make_affine(lane.middle, fetched.middle, at, values);
    unpack(fetched.dnormal, gradients);
    float scale[kOctet];
    load_floats(lane.scale, scale);
#pragma unroll
    for (int i = 0; i < kOctet; ++i)
      values[i] += scale[i] * gradients[i];
    return pack(values);
  }
};

// A stretch of time of a row in shared memory: kRoom steps from `first` on,
// which may begin before the row; there, from `end` on, and above and below the
// image, it is zero. Two more steps have room and are not written.
template <class Source, int kRoom, int kThreads>
class RowFill {
 public:
  static constexpr int kOctets = Source::kChannels / kOctet;
  // 16 bytes more than a power of two: eight rows, of neighbouring steps or of
  // every third, then lie in different banks.
  static constexpr int kStride =
      2 * Source::kChannels + (Source::kChannels == kPaddedInput ? 0 : 16);
  static constexpr int kBytes = (kRoom + 2) * kStride;

  __device__ RowFill(const Source& source, int32_t rows)
      : source_(source), rows_(rows), lane_(source.lane(thread() % kOctets)) {
    static_assert(kThreads % kOctets == 0, "a thread keeps its octet");
  }

  __device__ void fetch(int32_t clip, int32_t row, int32_t first, int32_t end) {
    at_ = {clip, row, first};
    end_ = row >= 0 && row < rows_ ? end : 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      if (inside(i))
        fetched_[i] = source_.fetch(position(i), thread() % kOctets);
  }

  __device__ void store(char* room) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int32_t index = step_index(i);
      if (kItems * kThreads > kRoom * kOctets && index >= kRoom)
        break;
      Octet octet = {};
      if (inside(i))
        octet = source_.make(lane_, fetched_[i], position(i));
      *reinterpret_cast<Octet*>(room + index * kStride +
                                thread() % kOctets * 16) = octet;
    }
  }

 private:
  static constexpr int kItems = (kRoom * kOctets + kThreads - 1) / kThreads;

  __device__ static int32_t thread() {
    return static_cast<int32_t>(threadIdx.x);
  }
  __device__ static int32_t step_index(int i) {
    return thread() / kOctets + i * (kThreads / kOctets);
  }
  __device__ Position position(int i) const {
    return {at_.clip, at_.row, at_.step + step_index(i)};
  }
  __device__ bool inside(int i) const {
    const int32_t step = at_.step + step_index(i);
    return step >= 0 && step < end_;
  }

  const Source& source_;
  int32_t rows_;
  typename Source::Lane lane_;
  typename Source::Fetched fetched_[kItems];
  Position at_;
  int32_t end_;
};

}  // namespace sparse_aasist
