// The op by which Python reads and limits the SIMD level.
#include <cstdint>

#include <torch/csrc/stable/library.h>

#include "simd_level.h"

namespace sparse_aasist {
namespace {

// Number of the level in use; asks for `most` first unless that is negative.
int64_t simd_level_op(int64_t most) {
  if (most >= 0)
    limit_simd_level(static_cast<SimdLevel>(most));
  return static_cast<int64_t>(simd_level());
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def("simd_level(int most) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&simd_level_op));
}

}  // namespace
}  // namespace sparse_aasist
