// Where the convolutions of a residual block get their rows from. A source
// makes eight neighbouring channels of a time step, in bfloat16, of what it
// fetched beforehand: the way to memory is long, and lies behind a row's
// products.
//
//   kChannels                 of a row
//   kComputes                 whether making them takes long
//   lane(octet)               what a thread keeps for the octet it always
//                             works on
//   fetch(at, octet)          starts the loads
//   make(lane, fetched, at)   the octet
#pragma once

#include "residual_middle.cuh"
#include "selu.cuh"

namespace sparse_aasist {

// Of a first block's single channel, padded for the tensor cores.
constexpr int32_t kPaddedInput = 16;

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
  const float* affine;  // (2, kChannels)

  using Lane = typename Middle::template AffineLane<kOctet>;
  using Fetched = typename Middle::template Fetched<kOctet>;

  __device__ Lane lane(int32_t octet) const {
    return middle.template affine_lane<kOctet>(affine, affine + kChannels,
                                               octet * kOctet);
  }
  __device__ Fetched fetch(const Position& at, int32_t octet) const {
    return middle.template fetch<kOctet>(at, octet * kOctet);
  }
  __device__ Octet make(const Lane& lane,
                        const Fetched& fetched,
                        const Position&) const {
    float values[kOctet];
    middle.make_affine(lane, fetched, values);
#pragma unroll
    for (int i = 0; i < kOctet; ++i)
      values[i] = fast_selu(values[i]);
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
                        const Position&) const {
    float values[kOctet], gradients[kOctet];
    middle.make_affine(lane.middle, fetched.middle, values);
    unpack(fetched.dnormal, gradients);
    float scale[kOctet];
    load_floats(lane.scale, scale);
#pragma unroll
    for (int i = 0; i < kOctet; ++i)
      values[i] += scale[i] * gradients[i];
    return pack(values);
  }
};

// A stretch of time of a row in shared memory: kRoom steps from `at` on, which
// may begin before the row; there, from `end` on, and above and below the
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

  __device__ void fetch(const Position& at, int32_t end) {
    at_ = at;
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      if (inside(end, i))
        fetched_[i] = source_.fetch(position(i), thread() % kOctets);
  }

  // `end` as for the fetch before.
  __device__ void store(int32_t end, char* room) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int32_t index = step_index(i);
      if (kItems * kThreads > kRoom * kOctets && index >= kRoom)
        break;
      Octet octet = {};
      if (inside(end, i))
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
  __device__ bool inside(int32_t end, int i) const {
    const int32_t step = at_.step + step_index(i);
    return at_.row >= 0 && at_.row < rows_ && step >= 0 && step < end;
  }

  const Source& source_;
  int32_t rows_;
  typename Source::Lane lane_;
  typename Source::Fetched fetched_[kItems];
  Position at_;
};

}  // namespace sparse_aasist
