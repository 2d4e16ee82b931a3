// graph_attention on a GPU, forward, in one launch. A block owns a few rows of
// a clip, or its master, which is a row with weights of its own.
#include "graph_attention.h"
#include "graph_attention_rows.cuh"

namespace sparse_aasist {
namespace {

template <class Tile>
__global__ void __launch_bounds__(kAttentionThreads, 4)
    graph_attention_kernel(GraphAttentionParams params, RowGroups groups) {
  using T = typename Tile::Real;
  SPARSE_AASIST_DYNAMIC_SHARED(T, scores);  // (rows of a group, nodes)
  SPARSE_AASIST_SHARED(Pack<T>, products, Tile::kPairs * kRowPacks);
  SPARSE_AASIST_SHARED(Pack<T>, weight, Tile::kOutputs * kRowPacks);
  SPARSE_AASIST_SHARED(T, layer, 4 * Tile::kOutputs);
  const GroupRoom<Tile> room = {reinterpret_cast<T*>(products),
                                reinterpret_cast<T*>(weight), layer};
  for (int64_t item = blockIdx.x; item < groups.count; item += gridDim.x) {
    const RowGroup group = row_group(params, groups, item);
    void* const out = group.master ? params.summary : params.out;
    const int64_t first_row =
        group.master ? group.clip : group.clip * params.nodes + group.first;
    attend_group<Tile>(params, group, groups.shift, room, scores,
                       [&](int32_t r, int32_t d, T value) {
                         write_value(out, params.format,
                                     (first_row + r) * params.dim + d, value);
                       });
  }
}

}  // namespace

const char* graph_attention_cuda(const GraphAttentionParams& params,
                                 void* stream) {
  if (params.batch == 0)
    return nullptr;
  return with_tile<4>(params, [&](auto tile) {
    using Tile = decltype(tile);
    const RowGroups groups = row_groups(params);
    const size_t bytes = static_cast<size_t>(params.nodes << groups.shift) *
                         sizeof(typename Tile::Real);
    return SPARSE_AASIST_LAUNCH((graph_attention_kernel<Tile>),
                                blocks_for(groups.count), kAttentionThreads,
                                bytes, stream, params, groups);
  });
}

}  // namespace sparse_aasist
