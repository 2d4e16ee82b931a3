// Products of tiles for a convolution of one input: back to it, and the
// gradient of its weights.
#pragma once

#include <cstdint>

#include "tiles/tile_convolution.h"
#include "tiles/tile_gradient.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// A number that a generic function may compute with.
template <int value>
struct Number {
  static constexpr int kValue = value;
};

// Right sides of the products of one input: column j of a tile is step 9 r + j
// of row r, of which 16 make a strip; a tile for each step that they meet.
constexpr int kFirstColumns = 9;
constexpr int kFirstDepth = kFirstColumns + kTapHalo;
constexpr int64_t kFirstSize = kFirstDepth * kTileValues;

// Tiles of kFirstDepth steps: column j of that of step d has the tap by which
// the gradient at d reaches x at j.
inline void pack_first(const Convolution& convolution,
                       int32_t outputs,
                       int32_t heights,
                       int32_t height,
                       uint16_t* to) {
  for (int step = 0; step < kFirstDepth; ++step)
    for (int32_t o = 0; o < outputs; o += 2)
      for (int column = 0; column < kTileColumns; ++column)
        for (int32_t output = o; output < o + 2; ++output) {
          const int tap = column + kTaps - 1 - step;
          const bool meets = column < kFirstColumns && tap >= 0 && tap < kTaps;
          *to++ =
              meets
                  ? bfloat16_of(
                        convolution
                            .weight[(output * heights + height) * kTaps + tap])
                  : uint16_t{0};
        }
}

// What three rows of 32 outputs, each from a step before the first on, make of
// `weight`, one after the other. Tiles of sums lie as store_sums() leaves them.
template <int kOutputs>
inline void multiply_first(const uint16_t* below,
                           const uint16_t* own,
                           const uint16_t* beside,
                           const uint16_t* weight,
                           float* sums) {
  constexpr int64_t kRow = kFirstColumns * kOutputs * sizeof(uint16_t);
  constexpr int kLeft = 6, kRight = 7;
  clear_sums();
  const auto multiply = [&](int step, auto even) {
    // Two sums each, so that a product need not wait for the one before it.
    constexpr int kSums = decltype(even)::kValue ? 0 : 3;
    const uint16_t* const right = weight + step * kTileValues;
    load_tile<kLeft>(below + step * kOutputs, kRow);
    load_tile<kRight>(right, kTileBytes);
    multiply_tiles<kSums, kLeft, kRight>();
    load_tile<kLeft>(own + step * kOutputs, kRow);
    load_tile<kRight>(right + kFirstSize, kTileBytes);
    multiply_tiles<kSums + 1, kLeft, kRight>();
    load_tile<kLeft>(beside + step * kOutputs, kRow);
    load_tile<kRight>(right + 2 * kFirstSize, kTileBytes);
    multiply_tiles<kSums + 2, kLeft, kRight>();
  };
  for (int step = 0; step < kFirstDepth; step += 2) {
    multiply(step, Number<true>{});
    if (step + 1 < kFirstDepth)
      multiply(step + 1, Number<false>{});
  }
  store_sums(sums);
}

// At a step.
inline float first_product(const float* sums, int64_t step) {
  const float* const at =
      sums + step / kFirstColumns * kSumOutputs + step % kFirstColumns;
  float sum = 0;
  for (int rows = 0; rows < 3; ++rows)
    for (int columns = 0; columns < 2; ++columns)
      sum += at[rows * kTileRows * kSumOutputs + columns * kTileColumns];
  return sum;
}

// The gradients of one input, from even pairs of 32 outputs: a tile's rows are
// that input under each tap. Sums (2, 16, 16) each.
inline void add_first_gradients(const uint16_t* taps,
                                int64_t tap_row,
                                const uint16_t* draw,
                                const uint16_t* dout,
                                int64_t steps,
                                float* conv1,
                                float* shortcut) {
  constexpr int64_t kPairBytes = 2 * kGroupChannels * sizeof(uint16_t);
  load_tile<0>(conv1, kTileBytes);
  load_tile<1>(conv1 + kTileSums, kTileBytes);
  load_tile<2>(shortcut, kTileBytes);
  load_tile<3>(shortcut + kTileSums, kTileBytes);
  for (int64_t t = 0; t < steps; t += kBlockSteps) {
    const uint16_t* const raw = draw + t * kGroupChannels;
    const uint16_t* const out = dout + t * kGroupChannels;
    load_tile<4>(taps + t, 2 * tap_row);
    load_tile<5>(raw, kPairBytes);
    multiply_tiles<0, 4, 5>();
    load_tile<6>(raw + 2 * kTileColumns, kPairBytes);
    multiply_tiles<1, 4, 6>();
    load_tile<7>(out, kPairBytes);
    multiply_tiles<2, 4, 7>();
    load_tile<5>(out + 2 * kTileColumns, kPairBytes);
    multiply_tiles<3, 4, 5>();
  }
  store_tile<0>(conv1, kTileBytes);
  store_tile<1>(conv1 + kTileSums, kTileBytes);
  store_tile<2>(shortcut, kTileBytes);
  store_tile<3>(shortcut + kTileSums, kTileBytes);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
