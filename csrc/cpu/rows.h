// Writing rows that are mostly zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kept_rows.h"
#include "simd.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// An output of this size or more would not be found in a cache later. Writing
// it past the caches saves reading every line before it is overwritten.
constexpr int64_t kStreamBytes = 32 << 20;

// Writes a row of zeros but for value(i) at position(coded[i]), i < k.
template <class T, class Value>
inline void write_sparse_row(T* row,
                             int32_t dim,
                             const int32_t* coded,
                             int32_t k,
                             bool streams,
                             const Value& value) {
  constexpr int32_t kStep = kLanes<T>;
  if (!streams) {
    __builtin_memset(row, 0, static_cast<size_t>(dim) * sizeof(T));
    for (int32_t i = 0; i < k; ++i)
      row[position(coded[i])] = value(i);
    return;
  }
  int32_t i = 0, j = 0;
  // The next `count` entries, through the caches.
  const auto write = [&](int32_t count) {
    __builtin_memset(row + j, 0, static_cast<size_t>(count) * sizeof(T));
    for (j += count; i < k && position(coded[i]) < j; ++i)
      row[position(coded[i])] = value(i);
  };
  while (j < dim && !is_aligned(row + j))
    write(1);
  for (;;) {
    const int32_t next = i < k ? position(coded[i]) : dim;
    for (; j + kStep <= next; j += kStep)
      store_past_caches<T>(row + j, Vector<T>{});
    if (j + kStep > dim)
      break;
    Vector<T> vector{};
    for (; i < k && position(coded[i]) < j + kStep; ++i)
      vector |= select_lanes<T>(uint64_t{1} << (position(coded[i]) - j),
                                broadcast(value(i)));
    store_past_caches<T>(row + j, vector);
    j += kStep;
  }
  if (j < dim)
    write(dim - j);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
