// The weights of a block as tensor cores read them.
#pragma once

#include "bfloat16_channels.cuh"
#include "residual_block_bfloat16.h"

namespace sparse_aasist {

// Fragments of weights: [tap in height][tap in time][16 inputs][16
// columns][lane] in the order of tensor_core.cuh's b, for two tiles of 8
// columns. Columns are dealt so that a lane's four results are neighbours.
struct WeightsToPack {
  const float* weight;  // (outputs, inputs, height, 3); null: nothing
  int32_t outputs;
  int32_t inputs;
  int32_t height;
  bool mirrored;  // for the gradient: outputs and inputs, and both directions
                  // of the taps, change places

  SPARSE_AASIST_INLINE static int64_t padded(int32_t width) {
    return (width + 15) / 16 * 16;
  }
  // In uint32_t.
  SPARSE_AASIST_INLINE int64_t size() const {
    return weight == nullptr
               ? 0
               : 3 * height * padded(outputs) * padded(inputs) / 2;
  }
};

// The order in which the weights of a block are packed.
enum PackedWeights { kConv1, kConv2, kShortcut, kPackedWeights };

struct PackPlan {
  WeightsToPack of[kPackedWeights];
  uint32_t* to;  // one after the other
};

__device__ inline float packed_entry(const WeightsToPack& of,
                                     int32_t high,
                                     int32_t time,
                                     int32_t k,
                                     int32_t column) {
  if (of.mirrored) {
    high = of.height - 1 - high;
    time = 2 - time;
  }
  const int32_t output = of.mirrored ? k : column;
  const int32_t input = of.mirrored ? column : k;
  if (output >= of.outputs || input >= of.inputs)
    return 0.0f;
  return of
      .weight[((output * of.inputs + input) * of.height + high) * 3 + time];
}

static __global__ void residual_pack_kernel(
    const __grid_constant__ PackPlan plan) {
  uint32_t* to = plan.to;
  for (const WeightsToPack& of : plan.of) {
    const int32_t size = static_cast<int32_t>(of.size());
    if (size == 0)
      continue;
    const int32_t source = of.mirrored ? of.outputs : of.inputs;
    const int32_t columns = of.mirrored ? of.inputs : of.outputs;
    const int32_t ks = (source + 15) / 16, groups = (columns + 15) / 16;
    for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < size;
         i += gridDim.x * blockDim.x) {
      const int32_t half = i % 2, tile = i / 2 % 2, lane = i / 4 % 32;
      int32_t rest = i / 128;
      const int32_t group = rest % groups;
      rest /= groups;
      const int32_t k16 = rest % ks;
      rest /= ks;
      const int32_t g = lane / 4, t = lane % 4;
      const int32_t column = group * 16 + g / 2 * 4 + tile * 2 + g % 2;
      const int32_t k = k16 * 16 + half * 8 + 2 * t;
      to[i] =
          pack_bfloat16(packed_entry(of, rest / 3, rest % 3, k, column),
                        packed_entry(of, rest / 3, rest % 3, k + 1, column));
    }
    to += size;
  }
}

// Mirrored weights take the same room as the others, and are at the same
// places.
inline PackPlan packing(const ResidualBfloat16Params& params, bool mirrored) {
  const int32_t inputs = params.inputs, outputs = params.outputs;
  return {{{params.conv1.weight, outputs, inputs, 2, mirrored},
           {params.conv2.weight, outputs, outputs, 2, mirrored},
           {params.shortcut.weight, outputs, inputs, 1, mirrored}},
          params.packed};
}

inline const char* pack_weights(const ResidualBfloat16Params& params,
                                bool mirrored,
                                void* stream) {
  const PackPlan plan = packing(params, mirrored);
  int64_t most = 0;
  for (const WeightsToPack& of : plan.of)
    most = of.size() > most ? of.size() : most;
  return SPARSE_AASIST_LAUNCH(residual_pack_kernel,
                              blocks_for((most + 255) / 256), 256, 0, stream,
                              plan);
}

// Where those of `which` begin; of kPackedWeights, where all end.
inline const uint32_t* packed_weights(const ResidualBfloat16Params& params,
                                      PackedWeights which) {
  const PackPlan plan = packing(params, false);
  const uint32_t* at = params.packed;
  for (int i = 0; i < which; ++i)
    at += plan.of[i].size();
  return at;
}

// What a warp multiplies 16 channels of a source of kWidth with: fragments for
// its columns, by the taps.
template <int kTiles, int kHigh>
using HeldWeights = uint32_t[kHigh][3][2 * kTiles];

template <class Shape, int kWidth, int kHigh>
__device__ __forceinline__ void load_weights(
    const uint32_t* packed,
    int32_t warp_column,
    int32_t k16,
    HeldWeights<Shape::kTiles, kHigh>& to) {
  constexpr int kGroups = Shape::kOutputs / 16;
  // A group's 16 columns are two tiles, of one warp or of two.
  constexpr int kOf = 2 / Shape::kTiles;
  const uint32_t* const own = packed +
                              (warp_column / kOf * 32 + threadIdx.x % 32) * 4 +
                              warp_column % kOf * 2;
#pragma unroll
  for (int high = 0; high < kHigh; ++high)
#pragma unroll
    for (int tap = 0; tap < 3; ++tap) {
      const int index = ((high * 3 + tap) * (kWidth / 16) + k16) * kGroups;
      const auto loaded = *reinterpret_cast<const Channels<4 * Shape::kTiles>*>(
          own + index * 128);
#pragma unroll
      for (int i = 0; i < 2 * Shape::kTiles; ++i)
        to[high][tap][i] = loaded.pairs[i];
    }
}

}  // namespace sparse_aasist
