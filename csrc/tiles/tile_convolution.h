// Convolutions over time with 3 taps by products of tiles. Rows lie in scratch
// with their channels as neighbours, so that a tile's left side is 16 steps of
// 32 channels as they are.
#pragma once

#include <cstdint>

#include "cpu/residual_rows.h"
#include "tiles/bfloat16_rows.h"
#include "tiles/tile_shelf.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// What is handed on together.
constexpr int kSumSteps = 3 * kTileRows;
constexpr int kSumOutputs = 2 * kTileColumns;
constexpr int kSumSize = kSumSteps * kSumOutputs;

// A weight as right sides of products: (outputs / kSumOutputs, heights, kTaps,
// inputs / kTileDepth), two tiles each.
struct PackedTiles {
  uint16_t* weight;
  int32_t heights;
  int32_t inputs;
  int32_t outputs;

  int64_t row_size() const {
    return int64_t{kTaps} * inputs / kTileDepth * 2 * kTileValues;
  }
  int64_t size() const { return outputs / kSumOutputs * heights * row_size(); }
  const uint16_t* of(int64_t output, int32_t height) const {
    return weight + (output / kSumOutputs * heights + height) * row_size();
  }
};

inline PackedTiles take_tiles(TileShelf& shelf,
                              int32_t heights,
                              int32_t inputs,
                              int32_t outputs) {
  PackedTiles packed{nullptr, heights, inputs, outputs};
  packed.weight = shelf.take<uint16_t>(packed.size());
  return packed;
}

// Rounds to bfloat16.
inline void pack(const WeightView& view, const PackedTiles& to) {
  uint16_t* at = to.weight;
  for (int32_t block = 0; block < to.outputs; block += kSumOutputs)
    for (int32_t h = 0; h < to.heights; ++h)
      for (int32_t tap = 0; tap < kTaps; ++tap)
        for (int32_t depth = 0; depth < to.inputs; depth += kTileDepth)
          for (int32_t o = block; o < block + kSumOutputs; o += kTileColumns)
            for (int32_t i = depth; i < depth + kTileDepth; i += 2)
              for (int32_t column = o; column < o + kTileColumns; ++column)
                for (int32_t input = i; input < i + 2; ++input)
                  *at++ = bfloat16_of(
                      view.weight[column * view.output_stride +
                                  input * view.input_stride + h * kTaps +
                                  (view.backwards ? kTaps - 1 - tap : tap)]);
}

// A row whose steps meet taps of a packed weight; it begins at the first tap
// of the first step.
struct TileTerm {
  const uint16_t* row;  // null: zeros
  const uint16_t* weight;
  int32_t channels;  // of a step
  int32_t taps;
  int32_t skipped = 0;  // channels, behind those that are taken

  int32_t depth() const { return channels - skipped; }
  int32_t products() const {
    return row == nullptr ? 0 : taps * (depth() / kTileDepth);
  }
};

// The product of 32 or 16 steps, `stride` bytes apart, and two tiles of
// weights. Calls pause() after each of a tile.
template <int kLefts, class Pause>
inline void multiply_step(const uint16_t* steps,
                          int64_t stride,
                          const uint16_t* weight,
                          const Pause& pause) {
  const char* const left = reinterpret_cast<const char*>(steps);
  load_tile<4>(left, stride);
  load_tile<6>(weight, kTileBytes);
  multiply_tiles<0, 4, 6>();
  pause();
  load_tile<7>(weight + kTileValues, kTileBytes);
  multiply_tiles<1, 4, 7>();
  pause();
  if constexpr (kLefts == 2) {
    load_tile<5>(left + kTileRows * stride, stride);
    multiply_tiles<2, 5, 6>();
    pause();
    multiply_tiles<3, 5, 7>();
    pause();
  }
}

inline void clear_steps() {
  zero_tile<0>();
  zero_tile<1>();
  zero_tile<2>();
  zero_tile<3>();
}

template <int kLefts>
inline void store_steps(float* to) {
  constexpr int64_t kStride = kSumOutputs * sizeof(float);
  constexpr int kBelow = kTileRows * kSumOutputs;
  store_tile<0>(to, kStride);
  store_tile<1>(to + kTileColumns, kStride);
  if constexpr (kLefts == 2) {
    store_tile<2>(to + kBelow, kStride);
    store_tile<3>(to + kBelow + kTileColumns, kStride);
  }
}

// The sums of terms over 32 or 16 steps.
template <int kLefts, int kTerms, class Pause>
inline void multiply_steps(const TileTerm (&terms)[kTerms],
                           int64_t step,
                           float* sums,
                           const Pause& pause) {
  clear_steps();
  for (const TileTerm& term : terms) {
    if (term.row == nullptr)
      continue;
    const uint16_t* weight = term.weight;
    const int64_t stride = term.channels * sizeof(uint16_t);
    for (int32_t tap = 0; tap < term.taps; ++tap)
      for (int32_t depth = 0; depth < term.depth(); depth += kTileDepth) {
        multiply_step<kLefts>(term.row + (step + tap) * term.channels + depth,
                              stride, weight, pause);
        weight += 2 * kTileValues;
      }
  }
  store_steps<kLefts>(sums);
}

// Work on a block of sums is done by the unit: three steps of a vector of
// outputs.
constexpr int kSumVectors = kSumOutputs / kLanes<float>;
constexpr int kUnits = kSumSteps / kPoolSteps * kSumVectors;

// kSumSteps rows of kSumOutputs sums, of the terms from `step` on. Products
// leave the vector units idle: work(unit) is called for all kUnits, some after
// each product, as few instructions between two products as a core looks ahead.
// It may read what was in `sums` before, but not of later units.
template <int kTerms, class Work>
inline void multiply_terms(const TileTerm (&terms)[kTerms],
                           int64_t step,
                           float* sums,
                           const Work& work) {
  constexpr int kTilesOfSums = kSumSize / kTileSums;
  constexpr int kPair = 2 * kTileRows;
  int32_t products = 0;
  for (const TileTerm& term : terms)
    products += kTilesOfSums * term.products();
  // Ahead by three steps, which may reach beyond a pair of tiles.
  int32_t due = kSumVectors * products, unit = 0;
  const auto pause = [&]() {
    for (due += kUnits; unit < kUnits && unit * products < due; ++unit)
      work(unit);
  };
  multiply_steps<2>(terms, step, sums, pause);
  multiply_steps<1>(terms, step + kPair, sums + kPair * kSumOutputs, pause);
}

inline TileTerm term_of(const PackedTiles& packed,
                        const uint16_t* row,
                        int64_t output,
                        int32_t height) {
  return {row, packed.of(output, height), packed.inputs, kTaps};
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
