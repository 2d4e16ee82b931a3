// Neighbouring channels of channels-last images in bfloat16, and where they
// are.
#pragma once

#include "tensor_core.cuh"

namespace sparse_aasist {

constexpr int32_t kOctet = 8;
// Neighbouring channels in bfloat16.
template <int kCount>
struct alignas(2 * (kCount & -kCount)) Channels {
  uint32_t pairs[kCount / 2];
};
using Octet = Channels<kOctet>;

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

}  // namespace sparse_aasist
