// topk_activation on a CPU: select (topk_select.h), write zeros and what is
// kept; backward: write zeros and the gradients of what was kept.
#include "topk_activation.h"

#include "rows.h"
#include "topk_select.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

template <class Format, RankBy kBy>
void forward_rows(const TopkActivationParams& params,
                  int64_t row_begin,
                  int64_t row_end,
                  void* scratch) {
  using Bits = typename Format::Bits;
  const int64_t dim = params.dim, k = params.k;
  const bool streams =
      params.rows * dim * int64_t{sizeof(Bits)} >= kStreamBytes;
  RowSelector<Format, kBy> selector(params.dim, params.k, streams, scratch);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const Bits* x = at<Bits>(params.x, row * params.x_stride);
    const int32_t* kept = selector.select(x, at<Bits>(params.y, row * dim));
    if (params.indices == nullptr)
      continue;
    Bits* values = at<Bits>(params.values, row * k);
    int32_t* indices = params.indices + row * k;
    for (int64_t i = 0; i < k; ++i) {
      const int32_t index = kept[i];
      const Bits value = selector.value(x[index]);
      const bool dead = kBy == RankBy::kRelu && value == 0;
      values[i] = value;
      indices[i] = dead ? ~index : index;
    }
  }
  fence();
}

template <class Format>
void backward_rows(const TopkActivationBackwardParams& params,
                   int64_t row_begin,
                   int64_t row_end) {
  using Bits = typename Format::Bits;
  const int64_t dim = params.dim, k = params.k;
  const bool streams =
      params.rows * dim * int64_t{sizeof(Bits)} >= kStreamBytes;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const Bits* grad = at<Bits>(params.grad, row * params.grad_row_stride);
    const Bits* grad_values = at<Bits>(params.grad_values, row * k);
    const int32_t* coded = params.indices + row * k;
    const auto gradient = [&](int32_t i) -> Bits {
      const int64_t index = coded[i];
      if (index < 0)
        return 0;
      const int64_t offset = index * params.grad_dim_stride;
      if (grad_values == nullptr)
        return grad[offset];
      if (grad == nullptr)
        return grad_values[i];
      return Format::from_double(Format::to_double(grad[offset]) +
                                 Format::to_double(grad_values[i]));
    };
    write_sparse_row<Bits>(at<Bits>(params.dx, row * dim), params.dim, coded,
                           params.k, streams, gradient);
  }
  fence();
}

}  // namespace

void topk_activation_cpu(const TopkActivationParams& params,
                         int64_t row_begin,
                         int64_t row_end,
                         void* scratch) {
  with_format(params.format, [&](auto format) {
    with_rank_by(params.by, [&](auto by) {
      forward_rows<decltype(format), decltype(by)::value>(params, row_begin,
                                                          row_end, scratch);
    });
  });
}

void topk_activation_backward_cpu(const TopkActivationBackwardParams& params,
                                  int64_t row_begin,
                                  int64_t row_end) {
  with_format(params.format, [&](auto format) {
    backward_rows<decltype(format)>(params, row_begin, row_end);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
