// Arrays of one allocation, each from a multiple of a tile's row on.
#pragma once

#include <cstdint>

#include "cpu/time_convolution.h"
#include "tiles/tile.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// From null only their size is told, in bytes.
class TileShelf {
 public:
  explicit TileShelf(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const uintptr_t array = base_ + static_cast<uintptr_t>(size_);
    size_ += padded_to(count * static_cast<int64_t>(sizeof(T)), kTileBytes);
    return reinterpret_cast<T*>(array);
  }
  int64_t size() const { return size_; }

 private:
  uintptr_t base_;
  int64_t size_ = 0;
};

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
