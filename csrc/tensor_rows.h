// What the bindings share: tensors (..., dim) as rows, and their formats.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "float_format.h"

namespace sparse_aasist {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline FloatFormat format_of(const Tensor& tensor, const char* op) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return FloatFormat::kFloat32;
    case ScalarType::Double:
      return FloatFormat::kFloat64;
    case ScalarType::Half:
      return FloatFormat::kFloat16;
    case ScalarType::BFloat16:
      return FloatFormat::kBFloat16;
    default:
      STD_TORCH_CHECK(
          false, op, ": tensors must be float32, float64, float16 or bfloat16");
  }
}

inline int64_t last_size(const Tensor& tensor) {
  return tensor.size(tensor.dim() - 1);
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

// Sizes of `tensor` with another last one.
inline std::vector<int64_t> with_last(const Tensor& tensor, int64_t last) {
  std::vector<int64_t> sizes = sizes_of(tensor);
  sizes.back() = last;
  return sizes;
}

// A tensor on the device of `like`. new_empty() of the stable ABI looks its op
// up by name at every call, which costs as much as a small kernel.
inline Tensor new_strided_tensor(const Tensor& like,
                                 const std::vector<int64_t>& sizes,
                                 const std::vector<int64_t>& strides,
                                 ScalarType dtype) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_device_index(like.get(), &device_index));
  const auto code =
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), code,
      device_type, device_index, &handle));
  return Tensor(handle);
}

// The same, contiguous.
inline Tensor new_tensor(const Tensor& like,
                         const std::vector<int64_t>& sizes,
                         ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d])
    strides[d] = stride;
  return new_strided_tensor(like, sizes, strides, dtype);
}

// Whether `tensor` has these sizes, and the dtype and device of `like`.
inline bool fits(const Tensor& tensor,
                 const Tensor& like,
                 const std::vector<int64_t>& sizes) {
  return sizes_of(tensor) == sizes &&
         tensor.scalar_type() == like.scalar_type() &&
         tensor.device() == like.device();
}

inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// A tensor (..., dim) as a matrix; strides in elements.
struct Rows {
  Tensor tensor;  // owns the data: the tensor given, or a copy
  int64_t count;
  int64_t row_stride;
  int64_t dim_stride;
};

// A copy is made only where the leading dimensions have no common stride, or
// where the entries of a row must be neighbours and are not.
inline Rows as_rows(const Tensor& tensor, bool neighbours) {
  const int64_t last = tensor.dim() - 1;
  const int64_t dim = tensor.size(last);
  int64_t count = 1, row_stride = dim;
  bool regular = !neighbours || dim == 1 || tensor.stride(last) == 1;
  for (int64_t d = last - 1; d >= 0; --d) {
    if (tensor.size(d) == 1)
      continue;
    if (count == 1)
      row_stride = tensor.stride(d);
    else
      regular = regular && tensor.stride(d) == row_stride * count;
    count *= tensor.size(d);
  }
  if (regular)
    return {tensor, count, row_stride, tensor.stride(last)};
  return {torch::stable::contiguous(tensor), count, dim, 1};
}

// How many rows a thread gets at least, so that starting it pays.
inline int64_t rows_per_thread(int64_t elements_per_row) {
  return (1 << 14) / elements_per_row + 1;
}

inline const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

}  // namespace sparse_aasist
