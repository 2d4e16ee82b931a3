// topk_activation on a CPU: exact selection by std::nth_element.
//
//   rank(j) = (key(x_j), ~j), unique per row; kept: the k largest ranks, so at
//   equal keys the lowest index wins.
#include "topk_activation.h"

#include <algorithm>
#include <functional>
#include <type_traits>
#include <vector>

#include "order_key.h"

namespace sparse_aasist {
namespace {

constexpr int kIndexBits = 32;

__extension__ using Uint128 = unsigned __int128;

// Key in the high bits, complemented index in the low 32.
template <class Format>
using Rank =
    std::conditional_t<sizeof(typename Format::Bits) == sizeof(uint64_t),
                       Uint128,
                       uint64_t>;

template <class Format>
void run_rows(const TopkActivationParams& params,
              int64_t row_begin,
              int64_t row_end) {
  using Bits = typename Format::Bits;
  const uint32_t dim = static_cast<uint32_t>(params.dim);
  const bool by_abs = params.by_abs;
  // One pair of buffers for all rows of this call.
  std::vector<Bits> key_buffer(dim);
  std::vector<Rank<Format>> ranks(dim);
  Bits* __restrict__ keys = key_buffer.data();
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t offset = row * params.dim;
    const Bits* __restrict__ x = static_cast<const Bits*>(params.x) + offset;
    Bits* __restrict__ y = static_cast<Bits*>(params.y) + offset;
    bool* __restrict__ mask = params.mask + offset;
    for (uint32_t j = 0; j < dim; ++j)
      keys[j] = order_key<Format>(x[j], by_abs);
    for (uint32_t j = 0; j < dim; ++j)
      ranks[j] = (Rank<Format>{keys[j]} << kIndexBits) | ~j;
    const auto last_kept = ranks.begin() + (params.k - 1);
    std::nth_element(ranks.begin(), last_kept, ranks.end(), std::greater<>());
    const Bits last_key = static_cast<Bits>(*last_kept >> kIndexBits);
    const uint32_t last_index = ~static_cast<uint32_t>(*last_kept);
    for (uint32_t j = 0; j < dim; ++j) {
      const bool kept =
          (keys[j] > last_key) | ((keys[j] == last_key) & (j <= last_index));
      mask[j] = kept;
      y[j] = kept ? x[j] : Bits{0};
    }
  }
}

}  // namespace

void topk_activation_cpu(const TopkActivationParams& params,
                         int64_t row_begin,
                         int64_t row_end) {
  switch (params.format) {
    case FloatFormat::kFloat32:
      return run_rows<Float32>(params, row_begin, row_end);
    case FloatFormat::kFloat64:
      return run_rows<Float64>(params, row_begin, row_end);
    case FloatFormat::kFloat16:
      return run_rows<Float16>(params, row_begin, row_end);
    case FloatFormat::kBFloat16:
      return run_rows<BFloat16>(params, row_begin, row_end);
  }
}

}  // namespace sparse_aasist
