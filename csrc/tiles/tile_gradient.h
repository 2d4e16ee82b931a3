// Gradients of a convolution's weights by products of tiles: sums over time of
// a source's value at a step, times a gradient at a step beside it.
//
// Time is the depth of these products. The source lies transposed, (channel,
// step); two steps of the gradient lie side by side, (pair of steps, channel,
// step of the pair), and a tap is another beginning of them.
#pragma once

#include <cstdint>

#include "tiles/tile.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

constexpr int kGroupChannels = 32;  // of two tiles

// Interleaving two rows is cheapest in an order of its own: the column of
// `channel` among the two tiles of a group.
inline int interleaved_column(int channel) {
  return channel / 4 % 2 * kTileColumns + channel / 8 * 4 + channel % 4;
}
inline int interleaved_channel(int column) {
  return column % kTileColumns / 4 * 8 + column / kTileColumns * 4 + column % 4;
}

#if defined(__AVX512BW__)

inline __m512i load_group(const uint16_t* from) {
  return _mm512_loadu_si512(from);
}

// A group's channels of two steps; null: zeros.
inline void interleave_group(const uint16_t* even,
                             const uint16_t* odd,
                             uint16_t* to) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i a = even != nullptr ? load_group(even) : zero;
  const __m512i b = odd != nullptr ? load_group(odd) : zero;
  _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
  _mm512_store_si512(to + kGroupChannels, _mm512_unpackhi_epi16(a, b));
}

// Masks of all lanes: the intrinsics without one read a variable that GCC takes
// for uninitialised.
constexpr __mmask16 kAll16 = 0xffff;
constexpr __mmask8 kAll8 = 0xff;

// Rows of 16 pairs become columns.
inline void transpose_pairs(__m512i (&rows)[16]) {
  __m512i a[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_maskz_unpacklo_epi32(kAll16, rows[i], rows[i + 1]);
    a[i + 1] = _mm512_maskz_unpackhi_epi32(kAll16, rows[i], rows[i + 1]);
  }
  __m512i b[16];
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_maskz_unpacklo_epi64(kAll8, a[i + j], a[i + 2 + j]);
      b[i + 2 * j + 1] =
          _mm512_maskz_unpackhi_epi64(kAll8, a[i + j], a[i + 2 + j]);
    }
  // Quarter q of b[4 k + j] is column 4 q + j of rows 4 k to 4 k + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i even01 =
        _mm512_maskz_shuffle_i32x4(kAll16, b[j], b[4 + j], 0x88);
    const __m512i odd01 =
        _mm512_maskz_shuffle_i32x4(kAll16, b[j], b[4 + j], 0xdd);
    const __m512i even23 =
        _mm512_maskz_shuffle_i32x4(kAll16, b[8 + j], b[12 + j], 0x88);
    const __m512i odd23 =
        _mm512_maskz_shuffle_i32x4(kAll16, b[8 + j], b[12 + j], 0xdd);
    rows[j] = _mm512_maskz_shuffle_i32x4(kAll16, even01, even23, 0x88);
    rows[8 + j] = _mm512_maskz_shuffle_i32x4(kAll16, even01, even23, 0xdd);
    rows[4 + j] = _mm512_maskz_shuffle_i32x4(kAll16, odd01, odd23, 0x88);
    rows[12 + j] = _mm512_maskz_shuffle_i32x4(kAll16, odd01, odd23, 0xdd);
  }
}

// A group's channels of kTileDepth steps, `row` values apart, become rows of
// steps, `to_row` apart.
inline void transpose_group(const uint16_t* from,
                            int64_t row,
                            uint16_t* to,
                            int64_t to_row) {
  for (int half = 0; half < 2; ++half) {
    __m512i pairs[16];
    for (int i = 0; i < 16; ++i) {
      const __m512i even = load_group(from + 2 * i * row);
      const __m512i odd = load_group(from + (2 * i + 1) * row);
      pairs[i] = half == 0 ? _mm512_unpacklo_epi16(even, odd)
                           : _mm512_unpackhi_epi16(even, odd);
    }
    transpose_pairs(pairs);
    for (int i = 0; i < 16; ++i)
      _mm512_storeu_si512(
          to + interleaved_channel(half * kTileColumns + i) * to_row, pairs[i]);
  }
}

#else

inline void interleave_group(const uint16_t* even,
                             const uint16_t* odd,
                             uint16_t* to) {
  for (int channel = 0; channel < kGroupChannels; ++channel) {
    uint16_t* const pair = to + 2 * interleaved_column(channel);
    pair[0] = even != nullptr ? even[channel] : uint16_t{0};
    pair[1] = odd != nullptr ? odd[channel] : uint16_t{0};
  }
}

inline void transpose_group(const uint16_t* from,
                            int64_t row,
                            uint16_t* to,
                            int64_t to_row) {
  for (int channel = 0; channel < kGroupChannels; ++channel)
    for (int step = 0; step < kTileDepth; ++step)
      to[channel * to_row + step] = from[step * row + channel];
}

#endif

// Pairs of steps that begin at even ones, two before the first, and at odd
// ones from the one before the first on: no tap needs an address within a
// vector, from which tiles load five times as slowly.
struct StepPairs {
  uint16_t* even;  // (1 + steps / 2, 2 channels)
  uint16_t* odd;   // (steps / 2, 2 channels)
};

// Of `count` rows, and of zeros up to `steps`.
template <int kChannels>
inline void interleave_rows(const uint16_t* rows,
                            int64_t count,
                            int64_t steps,
                            const StepPairs& to) {
  const auto row = [&](int64_t t) {
    return t >= 0 && t < count ? rows + t * kChannels : nullptr;
  };
  const auto interleave = [&](int64_t t, uint16_t* pair) {
    const uint16_t* const first = row(t);
    const uint16_t* const second = row(t + 1);
    for (int c = 0; c < kChannels; c += kGroupChannels)
      interleave_group(first == nullptr ? nullptr : first + c,
                       second == nullptr ? nullptr : second + c, pair + 2 * c);
  };
  interleave(-2, to.even);
  for (int64_t t = 0; t < steps; t += 2) {
    interleave(t, to.even + (t + 2) * kChannels);
    interleave(t - 1, to.odd + t * kChannels);
  }
}

// sums (2, 2, 16, 16) += source gradient, of two groups: 32 rows of the
// transposed source, and the 32 columns of the interleaved gradient. Strides
// are in values.
inline void add_group_gradient(const uint16_t* source,
                               int64_t source_row,
                               const uint16_t* gradient,
                               int64_t gradient_row,
                               int64_t steps,
                               float* sums) {
  load_tile<0>(sums, kTileBytes);
  load_tile<1>(sums + kTileSums, kTileBytes);
  load_tile<2>(sums + 2 * kTileSums, kTileBytes);
  load_tile<3>(sums + 3 * kTileSums, kTileBytes);
  for (int64_t t = 0; t < steps; t += kTileDepth) {
    const uint16_t* const left = source + t;
    const uint16_t* const right = gradient + t / 2 * gradient_row;
    load_tile<4>(left, 2 * source_row);
    load_tile<6>(right, 2 * gradient_row);
    multiply_tiles<0, 4, 6>();
    load_tile<7>(right + 2 * kTileColumns, 2 * gradient_row);
    multiply_tiles<1, 4, 7>();
    load_tile<5>(left + kTileRows * source_row, 2 * source_row);
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
  }
  store_tile<0>(sums, kTileBytes);
  store_tile<1>(sums + kTileSums, kTileBytes);
  store_tile<2>(sums + 2 * kTileSums, kTileBytes);
  store_tile<3>(sums + 3 * kTileSums, kTileBytes);
}

// The gradient of a tap in height, sums (3, groups of inputs, groups of
// outputs, 2, 2, 16, 16): `source` begins at the first tap of the first step.
template <int kInputs, int kOutputs>
inline void add_gradient(const uint16_t* source,
                         int64_t source_row,
                         const StepPairs& gradient,
                         int64_t steps,
                         float* sums) {
  const uint16_t* const taps[3] = {gradient.even + 2 * kOutputs, gradient.odd,
                                   gradient.even};
  for (const uint16_t* tap : taps)
    for (int i = 0; i < kInputs; i += kGroupChannels)
      for (int o = 0; o < kOutputs; o += kGroupChannels, sums += 4 * kTileSums)
        add_group_gradient(source + i * source_row, source_row, tap + 2 * o,
                           2 * kOutputs, steps, sums);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
