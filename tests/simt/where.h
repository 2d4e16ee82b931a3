// Where a call runs, for the programs that serve kernels.
#pragma once

#include <cstdint>

#include "harness.h"
#include "simd_level.h"
#include "simt_shim.h"

namespace sparse_aasist::simt {

constexpr int64_t kOnDevice = -1;

// Each call begins with where it runs (kOnDevice, or a SIMD level) and the
// schedule of the device.
inline int64_t begin(const Call& call) {
  const int64_t where = call.scalars.at(0);
  set_schedule(static_cast<Schedule>(call.scalars.at(1)));
  limit_simd_level(static_cast<SimdLevel>(where == kOnDevice ? 0 : where));
  return where;
}

}  // namespace sparse_aasist::simt
