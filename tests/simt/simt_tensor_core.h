// The instructions of csrc/cuda/tensor_core.cuh, for the shim: lanes show each
// other where their fragments lie.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "float_format.h"
#include "simt_shim.h"

namespace sparse_aasist {
namespace simt {

// Runs `body` with what each lane of the warp shows. No lane goes on before all
// have read.
template <class T, class Body>
void with_lanes(const T& shown, const Body& body) {
  static const void* seen[32][32];  // by warp of the block
  const unsigned warp = thread_index.x / 32;
  seen[warp][lane()] = &shown;
  __syncwarp();
  body([&](int of) -> const T& {
    return *static_cast<const T*>(seen[warp][of]);
  });
  __syncwarp();
}

}  // namespace simt

inline void load_matrices(uint32_t (&to)[4], const void* row) {
  using namespace simt;
  const int g = lane() / 4, t = lane() % 4;
  with_lanes(row, [&](const auto& row_of) {
    for (int i = 0; i < 4; ++i)
      std::memcpy(&to[i], static_cast<const char*>(row_of(8 * i + g)) + 4 * t,
                  4);
  });
}

inline void load_transposed(uint32_t (&to)[4], const void* row) {
  using namespace simt;
  const int g = lane() / 4, t = lane() % 4;
  with_lanes(row, [&](const auto& row_of) {
    for (int i = 0; i < 4; ++i) {
      uint16_t pair[2];
      for (int r = 0; r < 2; ++r)
        pair[r] = static_cast<const uint16_t*>(row_of(8 * i + 2 * t + r))[g];
      std::memcpy(&to[i], pair, 4);
    }
  });
}

inline void multiply_add(float (&c)[4],
                         const uint32_t (&a)[4],
                         uint32_t b0,
                         uint32_t b1) {
  using namespace simt;
  const int g = lane() / 4, t = lane() % 4;
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  with_lanes(own, [&](const auto& of) {
    for (int i = 0; i < 4; ++i) {
      const int row = i / 2, column = 2 * t + i % 2;
      double sum = c[i];
      for (int k = 0; k < 16; ++k) {
        const int half = k / 8, holder = k % 8 / 2;
        const uint32_t x = of(4 * g + holder).a[2 * half + row];
        const uint32_t y = of(4 * column + holder).b[half];
        sum += k % 2 == 0 ? double{low_bfloat16(x)} * low_bfloat16(y)
                          : double{high_bfloat16(x)} * high_bfloat16(y);
      }
      c[i] = static_cast<float>(sum);
    }
  });
}

inline uint32_t pack_bfloat16(float low, float high) {
  const auto bits = [](float value) {
    return static_cast<uint32_t>(
        static_cast<uint16_t>(BFloat16::from_double(value)));
  };
  return bits(low) | bits(high) << 16;
}

inline float fast_exp2(float x) {
  return std::exp2(x);
}

}  // namespace sparse_aasist
