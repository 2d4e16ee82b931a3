// Rows of tensors whose format is known at run time only. A kernel that
// computes much with what it loads needs no copy of itself for every format.
#pragma once

#include <cstdint>

#include "kept_rows.h"
#include "row_access.cuh"

namespace sparse_aasist {

// Rows of a tensor of any format, read as T.
template <class T>
struct RowReader {
  const void* values;
  FloatFormat format;
  int32_t width;
  int64_t stride;

  // Values [index, index + 4) of a row, 0 past its end.
  __device__ __forceinline__ Quad<T> quad(int64_t row, int32_t index) const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return quad_as<Float64>(row, index);
    } else {
      if (format == FloatFormat::kBFloat16)
        return quad_as<BFloat16>(row, index);
      if (format == FloatFormat::kFloat16)
        return quad_as<Float16>(row, index);
      return quad_as<Float32>(row, index);
    }
  }

  // Value `index` of a row, 0 past its end.
  __device__ __forceinline__ T value(int64_t row, int32_t index) const {
    if (index >= width)
      return 0;
    if constexpr (sizeof(T) == sizeof(double)) {
      return value_as<Float64>(row, index);
    } else {
      if (format == FloatFormat::kBFloat16)
        return value_as<BFloat16>(row, index);
      if (format == FloatFormat::kFloat16)
        return value_as<Float16>(row, index);
      return value_as<Float32>(row, index);
    }
  }

 private:
  template <class Format>
  __device__ __forceinline__ Quad<T> quad_as(int64_t row, int32_t index) const {
    using Bits = typename Format::Bits;
    const Quad<Bits> bits = load_quad<Bits>(
        static_cast<const Bits*>(values) + row * stride, index, width, 0);
    Quad<T> quad;
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e)
      quad.of[e] = static_cast<T>(Format::to_double(bits.of[e]));
    return quad;
  }

  template <class Format>
  __device__ __forceinline__ T value_as(int64_t row, int32_t index) const {
    using Bits = typename Format::Bits;
    return static_cast<T>(Format::to_double(
        static_cast<const Bits*>(values)[row * stride + index]));
  }
};

template <class T>
__device__ __forceinline__ void write_value(void* tensor,
                                            FloatFormat format,
                                            int64_t i,
                                            T value) {
  const double wide = static_cast<double>(value);
  if constexpr (sizeof(T) == sizeof(double)) {
    at<int64_t>(tensor, i)[0] = Float64::from_double(wide);
  } else {
    if (format == FloatFormat::kBFloat16)
      at<int16_t>(tensor, i)[0] = BFloat16::from_double(wide);
    else if (format == FloatFormat::kFloat16)
      at<int16_t>(tensor, i)[0] = Float16::from_double(wide);
    else
      at<int32_t>(tensor, i)[0] = Float32::from_double(wide);
  }
}

}  // namespace sparse_aasist
