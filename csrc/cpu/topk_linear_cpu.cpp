// topk_linear on a CPU. The weight's gradient is computed by its columns: a
// task owns some and walks all rows in order, finding its part of each row's
// ascending indices by bisection. So no sum is shared, and the result does
// not depend on how many tasks there are.
#include "topk_linear.h"

#include "rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

template <class Format>
void forward_rows(const TopkLinearParams& params,
                  int64_t row_begin,
                  int64_t row_end,
                  double* scaled) {
  using Bits = typename Format::Bits;
  const int64_t dim = params.topk.dim, k = params.topk.k;
  const Bits* bias = static_cast<const Bits*>(params.bias);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const Bits* values = at<Bits>(params.topk.values, row * k);
    const int32_t* indices = params.topk.indices + row * k;
    const Bits* scale = at<Bits>(params.scale, row * dim);
    Bits* out = at<Bits>(params.out, row * params.classes);
    for (int64_t i = 0; i < k; ++i) {
      scaled[i] = Format::to_double(values[i]);
      if (scale != nullptr)
        scaled[i] *= Format::to_double(scale[position(indices[i])]);
    }
    for (int64_t c = 0; c < params.classes; ++c) {
      const Bits* weight = at<Bits>(params.weight, c * dim);
      double sum = 0;
      for (int64_t i = 0; i < k; ++i)
        sum += scaled[i] * Format::to_double(weight[position(indices[i])]);
      out[c] = Format::from_double(sum + Format::to_double(bias[c]));
    }
  }
}

template <class Format>
void backward_rows(const TopkLinearBackwardParams& params,
                   int64_t row_begin,
                   int64_t row_end) {
  using Bits = typename Format::Bits;
  const TopkActivationBackwardParams& topk = params.topk;
  const int64_t dim = topk.dim, k = topk.k;
  const bool streams = topk.rows * dim * int64_t{sizeof(Bits)} >= kStreamBytes;
  const Bits* weight = static_cast<const Bits*>(params.weight);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const Bits* grad_out = at<Bits>(params.grad_out, row * params.classes);
    const Bits* grad_y = at<Bits>(topk.grad, row * topk.grad_row_stride);
    const Bits* scale = at<Bits>(params.scale, row * dim);
    const int32_t* coded = topk.indices + row * k;
    const auto gradient = [&](int32_t i) -> Bits {
      const int64_t index = coded[i];
      if (index < 0)
        return 0;
      double sum = 0;
      for (int64_t c = 0; c < params.classes; ++c)
        sum += Format::to_double(grad_out[c]) *
               Format::to_double(weight[c * dim + index]);
      if (scale != nullptr)
        sum *= Format::to_double(scale[index]);
      if (grad_y != nullptr)
        sum += Format::to_double(grad_y[index * topk.grad_dim_stride]);
      return Format::from_double(sum);
    };
    write_sparse_row<Bits>(at<Bits>(topk.dx, row * dim), topk.dim, coded,
                           topk.k, streams, gradient);
  }
  fence();
}

template <class Format>
void backward_columns(const TopkLinearBackwardParams& params,
                      int32_t column_begin,
                      int32_t column_end,
                      double* sums) {
  using Bits = typename Format::Bits;
  const TopkActivationBackwardParams& topk = params.topk;
  const int64_t dim = topk.dim, k = topk.k, classes = params.classes;
  const int64_t columns = column_end - column_begin;
  for (int64_t i = 0; i < columns * classes; ++i)
    sums[i] = 0;
  for (int64_t row = 0; row < topk.rows; ++row) {
    const Bits* grad_out = at<Bits>(params.grad_out, row * classes);
    const Bits* values = at<Bits>(params.values, row * k);
    const Bits* scale = at<Bits>(params.scale, row * dim);
    const int32_t* indices = topk.indices + row * k;
    for (int64_t i = lower_bound(indices, topk.k, column_begin);
         i < k && position(indices[i]) < column_end; ++i) {
      const int32_t index = indices[i];
      if (index < 0)
        continue;
      double value = Format::to_double(values[i]);
      if (scale != nullptr)
        value *= Format::to_double(scale[index]);
      double* column = sums + (index - column_begin) * classes;
      for (int64_t c = 0; c < classes; ++c)
        column[c] += value * Format::to_double(grad_out[c]);
    }
  }
  Bits* dweight = static_cast<Bits*>(params.dweight);
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t j = 0; j < columns; ++j)
      dweight[c * dim + column_begin + j] =
          Format::from_double(sums[j * classes + c]);
}

template <class Format>
void sum_bias(const TopkLinearBackwardParams& params) {
  using Bits = typename Format::Bits;
  const Bits* grad_out = static_cast<const Bits*>(params.grad_out);
  for (int64_t c = 0; c < params.classes; ++c) {
    double sum = 0;
    for (int64_t row = 0; row < params.topk.rows; ++row)
      sum += Format::to_double(grad_out[row * params.classes + c]);
    static_cast<Bits*>(params.dbias)[c] = Format::from_double(sum);
  }
}

}  // namespace

void topk_linear_cpu(const TopkLinearParams& params,
                     int64_t row_begin,
                     int64_t row_end,
                     void* scratch) {
  topk_activation_cpu(params.topk, row_begin, row_end, scratch);
  with_format(params.topk.format, [&](auto format) {
    forward_rows<decltype(format)>(params, row_begin, row_end,
                                   static_cast<double*>(scratch));
  });
}

void topk_linear_backward_rows_cpu(const TopkLinearBackwardParams& params,
                                   int64_t row_begin,
                                   int64_t row_end) {
  with_format(params.topk.format, [&](auto format) {
    backward_rows<decltype(format)>(params, row_begin, row_end);
  });
}

void topk_linear_backward_columns_cpu(const TopkLinearBackwardParams& params,
                                      int32_t column_begin,
                                      int32_t column_end,
                                      double* sums) {
  with_format(params.topk.format, [&](auto format) {
    backward_columns<decltype(format)>(params, column_begin, column_end, sums);
    if (column_begin == 0)
      sum_bias<decltype(format)>(params);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
