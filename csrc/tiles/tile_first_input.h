// Products of tiles for a convolution of one input: back to it, and the
// gradient of its weights.
#pragma once

#include <cstdint>

#include "tiles/tile_convolution.h"
#include "tiles/tile_gradient.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

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

// The products of a step of three rows and its tiles.
template <int kSums>
inline void multiply_first_step(const uint16_t* const (&rows)[3],
                                int step,
                                const uint16_t* weight) {
  constexpr int64_t kRow = kFirstColumns * kGroupChannels * sizeof(uint16_t);
  constexpr int kLeft = 6, kRight = 7;
  const int64_t left = int64_t{step} * kGroupChannels;
  const uint16_t* const right = weight + step * kTileValues;
  load_tile<kLeft>(rows[0] + left, kRow);
  load_tile<kRight>(right, kTileBytes);
  multiply_tiles<kSums, kLeft, kRight>();
  load_tile<kLeft>(rows[1] + left, kRow);
  load_tile<kRight>(right + kFirstSize, kTileBytes);
  multiply_tiles<kSums + 1, kLeft, kRight>();
  load_tile<kLeft>(rows[2] + left, kRow);
  load_tile<kRight>(right + 2 * kFirstSize, kTileBytes);
  multiply_tiles<kSums + 2, kLeft, kRight>();
}

// What three rows of 32 outputs, each from a step before the first on, make of
// `weight`, one after the other: six tiles, whose sum is the result.
inline void multiply_first(const uint16_t* const (&rows)[3],
                           const uint16_t* weight,
                           float* sums) {
  clear_steps();
  zero_tile<4>();
  zero_tile<5>();
  // Two sums of a row, so that a product need not wait for the one before it.
  for (int step = 0; step < kFirstDepth; ++step)
    if (step % 2 == 0)
      multiply_first_step<0>(rows, step, weight);
    else
      multiply_first_step<3>(rows, step, weight);
  store_tile<0>(sums, kTileBytes);
  store_tile<1>(sums + kTileSums, kTileBytes);
  store_tile<2>(sums + 2 * kTileSums, kTileBytes);
  store_tile<3>(sums + 3 * kTileSums, kTileBytes);
  store_tile<4>(sums + 4 * kTileSums, kTileBytes);
  store_tile<5>(sums + 5 * kTileSums, kTileBytes);
}

// At a step.
inline float first_product(const float* sums, int64_t step) {
  const float* const at =
      sums + step / kFirstColumns * kTileColumns + step % kFirstColumns;
  float sum = 0;
  for (int tile = 0; tile < 6; ++tile)
    sum += at[tile * kTileSums];
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
  for (int64_t t = 0; t < steps; t += kTileDepth) {
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
