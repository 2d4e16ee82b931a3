// graph_pool on a CPU.
#include "graph_pool.h"

#include "kept_rows.h"
#include "order_key.h"
#include "vector_math.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// How many of `keys` come before the one at `i`.
template <class Key>
int32_t rank_of(const Key* keys, int32_t count, int32_t i) {
  const Key key = keys[i];
  int32_t rank = 0;
  for (int32_t j = 0; j < i; ++j)
    rank += keys[j] >= key;
  for (int32_t j = i + 1; j < count; ++j)
    rank += keys[j] > key;
  return rank;
}

template <class Format>
double rounded(double score) {
  return Format::to_double(Format::from_double(score));
}

// The sum of h * scale * weight, in lanes; `scale` may be null.
template <class Format, class Bits = typename Format::Bits>
double scored_sum(const Bits* h,
                  const Bits* scale,
                  const Bits* weight,
                  int64_t dim) {
  constexpr int kCount = kLanes<double>;
  const auto add = [&](double* sums, int64_t d, int lane) {
    const double factor =
        scale == nullptr ? 1.0 : Format::to_double(scale[d + lane]);
    sums[lane] += Format::to_double(h[d + lane]) * factor *
                  Format::to_double(weight[d + lane]);
  };
  double sums[kCount] = {};
  int64_t d = 0;
  for (; d + kCount <= dim; d += kCount)
    for (int lane = 0; lane < kCount; ++lane)
      add(sums, d, lane);
  for (int lane = 0; lane < dim - d; ++lane)
    add(sums, d, lane);
  return sum_lanes<double>(load(sums));
}

template <class Format>
void pool(const GraphPoolParams& params, int64_t clip, void* room) {
  using Bits = typename Format::Bits;
  const int64_t dim = params.dim, nodes = params.nodes, kept = params.kept;
  const Bits* h = at<Bits>(params.h, clip * params.h_stride);
  const Bits* scale = at<Bits>(params.scale, clip * nodes * dim);
  const Bits* weight = static_cast<const Bits*>(params.weight);
  const double bias = Format::to_double(*static_cast<const Bits*>(params.bias));
  double* scores = params.scores + clip * kept;
  int32_t* indices = params.indices + clip * kept;
  // The scores, then the keys of what they are rounded to.
  double* all_scores = static_cast<double*>(room);
  Bits* keys = reinterpret_cast<Bits*>(all_scores + nodes);
  for (int64_t i = 0; i < nodes; ++i) {
    const double sum = scored_sum<Format>(
        h + i * dim, scale == nullptr ? nullptr : scale + i * dim, weight, dim);
    all_scores[i] = 1 / (1 + __builtin_exp(-sum - bias));
    keys[i] = order_key<Format, RankBy::kValue, Bits>(
        Format::from_double(all_scores[i]));
  }
  for (int32_t i = 0; i < nodes; ++i) {
    const int32_t rank = rank_of<Bits>(keys, params.nodes, i);
    if (rank >= kept)
      continue;
    scores[rank] = all_scores[i];
    indices[rank] = i;
    const double score = rounded<Format>(all_scores[i]);
    Bits* out = at<Bits>(params.out, (clip * kept + rank) * dim);
    for (int64_t d = 0; d < dim; ++d)
      out[d] = Format::from_double(Format::to_double(h[i * dim + d]) * score);
  }
}

template <class Format>
void pool_backward(const GraphPoolBackwardParams& params, int64_t clip) {
  using Bits = typename Format::Bits;
  const GraphPoolParams& forward = params.forward;
  const int64_t dim = forward.dim, nodes = forward.nodes, kept = forward.kept;
  const Bits* weight = static_cast<const Bits*>(forward.weight);
  const Bits* h_of_clip = at<Bits>(forward.h, clip * forward.h_stride);
  Bits* dh = at<Bits>(params.dh, clip * forward.h_stride);
  double* sums = params.partials + clip * (dim + 1);
  for (int64_t i = 0; i < nodes * dim; ++i)
    dh[i] = 0;
  for (int64_t d = 0; d <= dim; ++d)
    sums[d] = 0;
  for (int64_t r = clip * kept; r < (clip + 1) * kept; ++r) {
    const int64_t node = forward.indices[r];
    const Bits* h = h_of_clip + node * dim;
    const Bits* scale = at<Bits>(forward.scale, (clip * nodes + node) * dim);
    const Bits* grad = at<Bits>(params.grad_out, r * dim);
    Bits* to = dh + node * dim;
    const double score = forward.scores[r];
    double dscore = 0;
    for (int64_t d = 0; d < dim; ++d)
      dscore += Format::to_double(grad[d]) * Format::to_double(h[d]);
    const double dsum = dscore * score * (1 - score);
    for (int64_t d = 0; d < dim; ++d) {
      const double factor =
          scale == nullptr ? dsum : dsum * Format::to_double(scale[d]);
      to[d] = Format::from_double(Format::to_double(grad[d]) *
                                      rounded<Format>(score) +
                                  factor * Format::to_double(weight[d]));
      sums[d] += factor * Format::to_double(h[d]);
    }
    sums[dim] += dsum;
  }
}

}  // namespace

void graph_pool_cpu(const GraphPoolParams& params,
                    int64_t begin,
                    int64_t end,
                    int64_t* room) {
  with_format(params.format, [&](auto format) {
    for (int64_t clip = begin; clip < end; ++clip)
      pool<decltype(format)>(params, clip, room);
  });
}

void graph_pool_backward_cpu(const GraphPoolBackwardParams& params,
                             int64_t begin,
                             int64_t end) {
  with_format(params.forward.format, [&](auto format) {
    for (int64_t clip = begin; clip < end; ++clip)
      pool_backward<decltype(format)>(params, clip);
  });
}

void graph_pool_backward_sum_cpu(const GraphPoolBackwardParams& params) {
  with_format(params.forward.format, [&](auto format) {
    using Format = decltype(format);
    using Bits = typename Format::Bits;
    const int64_t dim = params.forward.dim;
    for (int64_t d = 0; d <= dim; ++d) {
      double sum = 0;
      for (int64_t clip = 0; clip < params.forward.batch; ++clip)
        sum += params.partials[clip * (dim + 1) + d];
      Bits* to = d < dim ? at<Bits>(params.dweight, d)
                         : static_cast<Bits*>(params.dbias);
      *to = Format::from_double(sum);
    }
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
