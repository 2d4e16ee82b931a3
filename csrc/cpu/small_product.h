// Products of matrices that fit into the caches, at any place in memory; a
// library's call would cost more than the smallest of them.
#pragma once

#include <cstdint>

#include "vector_math.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// c = start + a b. Strides in elements.
template <class T>
struct Product {
  int32_t rows, columns, depth;  // columns: a multiple of kLanes<T>
  const T* a;                    // entry (r, k): a[r * a_row + k * a_depth]
  int64_t a_row, a_depth;
  const T* b;  // rows of `columns` neighbours
  int64_t b_row;
  const T* start;  // as c, with a stride of its own; null: zeros
  int64_t start_row;
  T* c;
  int64_t c_row;
};

// Accumulators, one row of b and one entry of a in registers.
constexpr int kTileRows = 4;
constexpr int kTileVectors = kHasMaskRegisters ? 4 : 3;

template <class T, int kRows, int kVectors>
inline void multiply_tile(const Product<T>& p, int32_t row, int32_t column) {
  Vector<T> sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = p.start == nullptr ? Vector<T>{}
                                      : load(p.start + (row + r) * p.start_row +
                                             column + v * kLanes<T>);
  const T* a = p.a + row * p.a_row;
  const T* b = p.b + column;
  for (int32_t k = 0; k < p.depth; ++k, a += p.a_depth, b += p.b_row) {
    Vector<T> entries[kVectors];
    for (int v = 0; v < kVectors; ++v)
      entries[v] = load(b + v * kLanes<T>);
    for (int r = 0; r < kRows; ++r) {
      const Vector<T> factor = splat(a[r * p.a_row]);
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] += factor * entries[v];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      store<T>(p.c + (row + r) * p.c_row + column + v * kLanes<T>, sums[r][v]);
}

template <class T, int kVectors>
inline void multiply_columns(const Product<T>& p, int32_t column) {
  int32_t row = 0;
  for (; row + kTileRows <= p.rows; row += kTileRows)
    multiply_tile<T, kTileRows, kVectors>(p, row, column);
  for (; row < p.rows; ++row)
    multiply_tile<T, 1, kVectors>(p, row, column);
}

template <class T>
inline void multiply(const Product<T>& p) {
  int32_t column = 0;
  for (; column + kTileVectors * kLanes<T> <= p.columns;
       column += kTileVectors * kLanes<T>)
    multiply_columns<T, kTileVectors>(p, column);
  switch ((p.columns - column) / kLanes<T>) {
    case 3:
      return multiply_columns<T, 3>(p, column);
    case 2:
      return multiply_columns<T, 2>(p, column);
    case 1:
      return multiply_columns<T, 1>(p, column);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
