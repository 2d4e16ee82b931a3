// Scratch of the CPU selection: an index and a key for every candidate of a
// row. Shared by the kernels, which use it, and the callers, who allocate it.
#pragma once

#include <cstdint>

namespace sparse_aasist {

// Candidates before a cut: a row that is not much longer is taken whole.
static constexpr int32_t topk_capacity(int32_t dim, int32_t k) {
  constexpr int32_t kLeast = 1024;
  const int32_t wanted = k > kLeast / 2 ? 2 * k : kLeast;
  return dim < wanted ? dim : wanted;
}

// Four vectors of the widest level, 32 keys each at most, may be pushed before
// a cut, and one more pads the last vector.
constexpr int32_t kTopkSlack = 4 * 32;

// A multiple of 8: keys come first, and leave indices aligned.
static constexpr int32_t topk_entries(int32_t dim, int32_t k) {
  return (topk_capacity(dim, k) + kTopkSlack + 32 + 7) / 8 * 8;
}

// Units of 8 bytes that one thread needs. topk_linear also keeps k float64.
static constexpr int64_t topk_scratch_size(int32_t dim, int32_t k) {
  constexpr int64_t kMostKeyBytes = 8;
  return (topk_entries(dim, k) * (4 + kMostKeyBytes) + 7) / 8;
}

}  // namespace sparse_aasist
