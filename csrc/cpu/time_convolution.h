// Convolutions over time with 3 taps, of rows that lie in scratch with their
// channels as neighbours: Winograd's F(4, 3), and a direct one for few
// channels. arXiv 1509.09308, section 4.1, in one dimension.
#pragma once

#include <cstdint>

#include "vector_math.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

constexpr int kTaps = 3;
constexpr int kTileSteps = 4;   // of a Winograd tile
constexpr int kTilePoints = 6;  // where it is multiplied
constexpr int kBlockVectors = 2;
// Outputs that are computed together, in whole vectors.
constexpr int kBlockOutputs = kBlockVectors * kLanes<float>;
// Rows whose accumulators fit into registers.
constexpr int kBlockRows = kHasMaskRegisters ? 12 : 6;
constexpr int kGroupTiles = 12;  // Winograd tiles that are computed together

inline int64_t padded_to(int64_t size, int64_t unit) {
  return (size + unit - 1) / unit * unit;
}

// Arrays of floats behind each other; from null only their size is told.
class Shelf {
 public:
  explicit Shelf(float* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  float* take(int64_t size) {
    const uintptr_t array =
        base_ + static_cast<uintptr_t>(size_) * sizeof(float);
    size_ += padded_to(size, 16);
    return reinterpret_cast<float*>(array);
  }
  int64_t size() const { return size_; }

 private:
  uintptr_t base_;
  int64_t size_ = 0;
};

using Sums = Vector<float>[kBlockRows][kBlockVectors];

// sums += a b, of kBlockRows rows of a, `row` entries apart, and `depth` rows
// of b, kBlockOutputs each.
inline void multiply_block(const float* a,
                           int64_t row,
                           const float* b,
                           int64_t depth,
                           Sums& sums) {
  for (int64_t k = 0; k < depth; ++k, b += kBlockOutputs) {
    Vector<float> entries[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v)
      entries[v] = load(b + v * kLanes<float>);
    for (int r = 0; r < kBlockRows; ++r) {
      const Vector<float> factor = splat(a[r * row + k]);
      for (int v = 0; v < kBlockVectors; ++v)
        sums[r][v] += factor * entries[v];
    }
  }
}

inline void store_block(const Sums& sums, float* to, int64_t row) {
  for (int r = 0; r < kBlockRows; ++r)
    for (int v = 0; v < kBlockVectors; ++v)
      store<float>(to + r * row + v * kLanes<float>, sums[r][v]);
}

// The 6 products' left sides for a tile, from 6 steps, `row` entries apart.
inline void transform_steps(const float* steps,
                            int64_t row,
                            float* to,
                            int64_t point) {
  const Vector<float> d0 = load(steps), d1 = load(steps + row);
  const Vector<float> d2 = load(steps + 2 * row), d3 = load(steps + 3 * row);
  const Vector<float> d4 = load(steps + 4 * row), d5 = load(steps + 5 * row);
  const Vector<float> even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1;
  const Vector<float> difference = d4 - d2, twice = 2.0f * (d3 - d1);
  store<float>(to, 4.0f * d0 - 5.0f * d2 + d4);
  store<float>(to + point, even + odd);
  store<float>(to + 2 * point, even - odd);
  store<float>(to + 3 * point, difference + twice);
  store<float>(to + 4 * point, difference - twice);
  store<float>(to + 5 * point, 4.0f * d1 - 5.0f * d3 + d5);
}

// Rows of `width` channels become (point, tile, width).
inline void transform_row(const float* steps,
                          int64_t tiles,
                          int64_t width,
                          float* to) {
  const int64_t point = tiles * width;
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t c = 0; c < width; c += kLanes<float>)
      transform_steps(steps + tile * kTileSteps * width + c, width,
                      to + tile * width + c, point);
}

// The same of the weights of 3 taps.
inline void transform_taps(const float (&taps)[kTaps],
                           double (&to)[kTilePoints]) {
  const double g0 = taps[0], g1 = taps[1], g2 = taps[2];
  to[0] = g0 / 4;
  to[1] = -(g0 + g1 + g2) / 6;
  to[2] = -(g0 - g1 + g2) / 6;
  to[3] = g0 / 24 + g1 / 12 + g2 / 6;
  to[4] = g0 / 24 - g1 / 12 + g2 / 6;
  to[5] = g2;
}

// 4 steps of an output vector, `row` entries apart, from the 6 products.
inline void transform_products(const float* products,
                               int64_t point,
                               Vector<float> start,
                               float* steps,
                               int64_t row) {
  const auto product = [&](int i) { return load(products + i * point); };
  const Vector<float> sum12 = product(1) + product(2);
  const Vector<float> sum34 = product(3) + product(4);
  const Vector<float> difference12 = product(1) - product(2);
  const Vector<float> difference34 = product(3) - product(4);
  store<float>(steps, start + product(0) + sum12 + sum34);
  store<float>(steps + row, start + difference12 + 2.0f * difference34);
  store<float>(steps + 2 * row, start + sum12 + 4.0f * sum34);
  store<float>(steps + 3 * row,
               start + difference12 + 8.0f * difference34 + product(5));
}

// A convolution as it is packed: `weight` is (block of outputs, point, tap in
// height, input, kBlockOutputs) for Winograd, else (block, tap in height, tap,
// input, kBlockOutputs); `start` what is added, (outputs).
struct PackedConvolution {
  float* weight;
  float* start;
  int32_t heights;  // taps in height
  int64_t inputs;   // padded
  int64_t outputs;  // padded
};

inline int64_t weight_size(const PackedConvolution& packed, bool winograd) {
  return packed.outputs * packed.inputs * packed.heights *
         (winograd ? kTilePoints : kTaps);
}

// Rows of inputs by their tap in height; null: zeros.
struct TapRows {
  const float* of[2];
};

// A row of `tiles` tiles, a multiple of kGroupTiles, from transformed rows.
// `room` is for kTilePoints * kGroupTiles * kBlockOutputs.
inline void convolve_winograd(const PackedConvolution& packed,
                              const TapRows& rows,
                              int64_t tiles,
                              float* room,
                              float* to) {
  const int64_t inputs = packed.inputs, outputs = packed.outputs;
  constexpr int64_t kPoint = int64_t{kGroupTiles} * kBlockOutputs;
  for (int64_t output = 0; output < outputs; output += kBlockOutputs) {
    const float* const weight =
        packed.weight + output * kTilePoints * packed.heights * inputs;
    for (int64_t group = 0; group < tiles; group += kGroupTiles) {
      for (int point = 0; point < kTilePoints; ++point)
        for (int first = 0; first < kGroupTiles; first += kBlockRows) {
          Sums sums = {};
          for (int32_t h = 0; h < packed.heights; ++h)
            if (rows.of[h] != nullptr)
              multiply_block(
                  rows.of[h] + (point * tiles + group + first) * inputs, inputs,
                  weight +
                      (point * packed.heights + h) * inputs * kBlockOutputs,
                  inputs, sums);
          store_block(sums, room + point * kPoint + first * kBlockOutputs,
                      kBlockOutputs);
        }
      for (int tile = 0; tile < kGroupTiles; ++tile)
        for (int v = 0; v < kBlockVectors; ++v) {
          const int64_t o = output + v * kLanes<float>;
          transform_products(room + tile * kBlockOutputs + v * kLanes<float>,
                             kPoint, load(packed.start + o),
                             to + (group + tile) * kTileSteps * outputs + o,
                             outputs);
        }
    }
  }
}

// A row of `steps` steps, a multiple of kBlockRows, from the rows themselves;
// a row begins at the first tap of the first step.
inline void convolve_directly(const PackedConvolution& packed,
                              const TapRows& rows,
                              int64_t steps,
                              float* to) {
  const int64_t inputs = packed.inputs, outputs = packed.outputs;
  const int64_t depth = kTaps * inputs;
  for (int64_t output = 0; output < outputs; output += kBlockOutputs) {
    const float* const weight = packed.weight + output * packed.heights * depth;
    for (int64_t step = 0; step < steps; step += kBlockRows) {
      Sums sums;
      for (int r = 0; r < kBlockRows; ++r)
        for (int v = 0; v < kBlockVectors; ++v)
          sums[r][v] = load(packed.start + output + v * kLanes<float>);
      for (int32_t h = 0; h < packed.heights; ++h)
        if (rows.of[h] != nullptr)
          multiply_block(rows.of[h] + step * inputs, inputs,
                         weight + h * depth * kBlockOutputs, depth, sums);
      store_block(sums, to + step * outputs + output, outputs);
    }
  }
}

// The other side of transform_products, for gradients: 6 points from 4 steps.
inline void transform_gradients(const float* steps,
                                int64_t row,
                                float* to,
                                int64_t point) {
  const Vector<float> y0 = load(steps), y1 = load(steps + row);
  const Vector<float> y2 = load(steps + 2 * row), y3 = load(steps + 3 * row);
  const Vector<float> even = y0 + y2, odd = y1 + y3;
  const Vector<float> even4 = y0 + 4.0f * y2, odd8 = 2.0f * y1 + 8.0f * y3;
  store<float>(to, y0);
  store<float>(to + point, even + odd);
  store<float>(to + 2 * point, even - odd);
  store<float>(to + 3 * point, even4 + odd8);
  store<float>(to + 4 * point, even4 - odd8);
  store<float>(to + 5 * point, y3);
}

// Rows of `width` channels become (point, tile, width).
inline void transform_gradient_row(const float* steps,
                                   int64_t tiles,
                                   int64_t width,
                                   float* to) {
  const int64_t point = tiles * width;
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t c = 0; c < width; c += kLanes<float>)
      transform_gradients(steps + tile * kTileSteps * width + c, width,
                          to + tile * width + c, point);
}

// The other side of transform_taps, for gradients.
inline void gradient_of_taps(const double (&points)[kTilePoints],
                             double (&taps)[kTaps]) {
  const double sum12 = points[1] + points[2], sum34 = points[3] + points[4];
  const double difference12 = points[2] - points[1];
  const double difference34 = points[3] - points[4];
  taps[0] = points[0] / 4 - sum12 / 6 + sum34 / 24;
  taps[1] = difference12 / 6 + difference34 / 12;
  taps[2] = -sum12 / 6 + sum34 / 6 + points[5];
}

// Rows of a gradient of weights whose accumulators fit into registers.
constexpr int kOuterRows = kHasMaskRegisters ? 8 : 4;

inline int64_t outer_rows(int64_t rows) {
  return padded_to(rows, kOuterRows);
}

// to[r][o] += sum over k < depth of a[r + k * a_row] * b[k * outputs + o], for
// outer_rows(rows) rows; what a has behind `rows` is read.
inline void add_outer(const float* a,
                      int64_t a_row,
                      const float* b,
                      int64_t outputs,
                      int64_t rows,
                      int64_t depth,
                      float* to) {
  for (int64_t output = 0; output < outputs; output += kBlockOutputs)
    for (int64_t row = 0; row < rows; row += kOuterRows) {
      Vector<float> sums[kOuterRows][kBlockVectors];
      float* const at = to + row * outputs + output;
      for (int r = 0; r < kOuterRows; ++r)
        for (int v = 0; v < kBlockVectors; ++v)
          sums[r][v] = load(at + r * outputs + v * kLanes<float>);
      const float* left = a + row;
      const float* right = b + output;
      for (int64_t k = 0; k < depth; ++k, left += a_row, right += outputs) {
        Vector<float> entries[kBlockVectors];
        for (int v = 0; v < kBlockVectors; ++v)
          entries[v] = load(right + v * kLanes<float>);
        for (int r = 0; r < kOuterRows; ++r) {
          const Vector<float> factor = splat(left[r]);
          for (int v = 0; v < kBlockVectors; ++v)
            sums[r][v] += factor * entries[v];
        }
      }
      for (int r = 0; r < kOuterRows; ++r)
        for (int v = 0; v < kBlockVectors; ++v)
          store<float>(at + r * outputs + v * kLanes<float>, sums[r][v]);
    }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
