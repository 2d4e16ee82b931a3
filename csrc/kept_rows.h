// Rows of tensors, and the indices of what is kept in them; for CPU and CUDA.
#pragma once

#include <cstdint>

#include "float_format.h"

namespace sparse_aasist {

// Element `offset` of the array at `base`, null where the array is.
template <class T>
SPARSE_AASIST_INLINE T* at(void* base, int64_t offset) {
  return base == nullptr ? nullptr : static_cast<T*>(base) + offset;
}
template <class T>
SPARSE_AASIST_INLINE const T* at(const void* base, int64_t offset) {
  return base == nullptr ? nullptr : static_cast<const T*>(base) + offset;
}

// An index as topk_activation.h codes it, without the mark of relu.
SPARSE_AASIST_INLINE int32_t position(int32_t coded) {
  return coded ^ (coded >> 31);
}

// First i with position(coded[i]) >= column, or k; positions ascend.
SPARSE_AASIST_INLINE int32_t lower_bound(const int32_t* coded,
                                         int32_t k,
                                         int32_t column) {
  int32_t first = 0;
  for (int32_t length = k; length > 0;) {
    const int32_t half = length / 2;
    const bool before = position(coded[first + half]) < column;
    first = before ? first + half + 1 : first;
    length = before ? length - half - 1 : half;
  }
  return first;
}

}  // namespace sparse_aasist
