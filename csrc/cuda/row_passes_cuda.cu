// The row passes on a GPU, each in one launch for all of its tasks.
#include "row_normalisation.cuh"
#include "row_passes.h"
#include "row_products.cuh"
#include "task_items.cuh"
#include "weight_gradient.cuh"

namespace sparse_aasist {
namespace {

SPARSE_AASIST_INLINE int64_t pieces(int64_t count, int64_t of) {
  return (count + of - 1) / of;
}

// What a thread has of a tile: entries of one row.
struct TileEntries {
  bool present;
  RowPlace row;
  int32_t output;  // the first; others are 8 apart
};
constexpr int32_t kEntryStep = kTileOutputs / RowTile::kColumns;

// Calls use(j, o) for the entries that are there.
template <class Use>
__device__ __forceinline__ void for_entries(const LinearRows& task,
                                            const TileEntries& entries,
                                            const Use& use) {
#pragma unroll
  for (int32_t j = 0; j < RowTile::kColumns; ++j)
    if (entries.present && entries.output + j * kEntryStep < task.outputs)
      use(j, entries.output + j * kEntryStep);
}

__device__ __forceinline__ TileEntries entries_of(const LinearRows& task,
                                                  const RowTileOf& tile) {
  const LanePlace place = lane_place();
  const int32_t row =
      static_cast<int32_t>(threadIdx.x) / 32 * RowTile::kWarpPairs + place.row;
  return {row < tile.rows, tile.first.plus(row, task.count),
          tile.output + place.column};
}

// What products are added to, and the scale of it all: read before the products
// are there, to wait for all together.
struct TileSums {
  float of[1][RowTile::kColumns];
  float scale[RowTile::kColumns];
};

__device__ __forceinline__ void read_addends(const LinearRows& task,
                                             const TileEntries& entries,
                                             TileSums& sums) {
#pragma unroll
  for (int32_t j = 0; j < RowTile::kColumns; ++j) {
    sums.of[0][j] = 0;
    sums.scale[j] = 1;
  }
  const auto add = [&](const void* values, int64_t first) {
    if (values != nullptr)
      for_entries(task, entries, [&](int32_t j, int32_t o) {
        sums.of[0][j] += value_at(values, first + o);
      });
  };
#pragma unroll
  for (int32_t p = 0; p < kMostProducts; ++p)
    if (task.products[p].rows.values != nullptr)
      add(task.products[p].bias, 0);
#pragma unroll
  for (int32_t a = 0; a < kMostAddends; ++a)
    add(task.addends[a].values,
        entries.row.entry(task.addends[a].stride, task.outputs));
  if (task.scale.values != nullptr) {
    const int64_t first = entries.row.entry(task.scale.stride, task.outputs);
    for_entries(task, entries, [&](int32_t j, int32_t o) {
      sums.scale[j] = value_at(task.scale.values, first + o);
    });
  }
}

// Of a product: its rows, then its weight.
constexpr int32_t kProductRoom = (kTileRows + kTileOutputs) * kRow<float>;
constexpr int32_t kWeightRoom = kTileRows * kRow<float>;

// Brings rows and weights of all products into shared memory, of dimensions
// from `depth` on.
__device__ __forceinline__ void stage(const LinearRows& task,
                                      const RowTileOf& tile,
                                      int32_t depth,
                                      float* room) {
  StagedRows<kTileRows> rows[kMostProducts];
  StagedWeight weights[kMostProducts];
#pragma unroll
  for (int32_t p = 0; p < kMostProducts; ++p) {
    const auto& product = task.products[p];
    if (product.rows.values == nullptr)
      continue;
    fetch_rows(task, product.rows, tile, depth, rows[p]);
    fetch_weight(task, product.weight, tile.output, depth, weights[p]);
  }
#pragma unroll
  for (int32_t p = 0; p < kMostProducts; ++p) {
    if (task.products[p].rows.values == nullptr)
      continue;
    float* const to = room + p * kProductRoom;
    rows[p].store(false, to);
    weights[p].store(task.transposed, to + kWeightRoom);
  }
}

__device__ __forceinline__ void multiply_tile(const LinearRows& task,
                                              const RowTileOf& tile,
                                              float* room) {
  const TileEntries entries = entries_of(task, tile);
  const int32_t warp = threadIdx.x / 32;
  TileSums sums;
  read_addends(task, entries, sums);
  for (int32_t depth = 0; depth < task.inputs; depth += kDepth<float>) {
    __syncthreads();
    stage(task, tile, depth, room);
    __syncthreads();
    const int32_t left = task.inputs - depth;
#pragma unroll
    for (int32_t p = 0; p < kMostProducts; ++p) {
      if (task.products[p].rows.values == nullptr)
        continue;
      const float* const from = room + p * kProductRoom;
      multiply_add<RowTile>(
          from + warp * RowTile::kWarpPairs * kRow<float>, from + kWeightRoom,
          left < kDepth<float> ? left : kDepth<float>, sums.of);
    }
  }
  float* const out = at<float>(
      task.out.values, entries.row.entry(task.out.stride, task.outputs));
  for_entries(task, entries, [&](int32_t j, int32_t o) {
    out[o] = sums.of[0][j] * sums.scale[j];
  });
}

using LinearItems = TaskItems<kMostLinearTasks>;

__global__ void __launch_bounds__(kAttentionThreads)
    linear_rows_kernel(const __grid_constant__ LinearPass pass,
                       const __grid_constant__ LinearItems items) {
  SPARSE_AASIST_SHARED(Quad<float>, room, kMostProducts * kProductRoom / kQuad);
  for (int64_t i = blockIdx.x; i < items.count; i += gridDim.x) {
    const TaskItem item = task_item(items, i);
    const LinearRows& task = pass.tasks[item.task];
    const int64_t columns = pieces(task.outputs, kTileOutputs);
    const int64_t first = item.item / columns * kTileRows;
    const int64_t left = pass.batch * task.count - first;
    const RowTileOf tile = {
        row_place(first, task.count),
        static_cast<int32_t>(left < kTileRows ? left : kTileRows),
        static_cast<int32_t>(item.item % columns) * kTileOutputs};
    multiply_tile(task, tile, reinterpret_cast<float*>(room));
  }
}

SPARSE_AASIST_INLINE int64_t input_tiles(const LinearGradient& task) {
  return task.weight != nullptr ? pieces(task.inputs, kGradientInputs) : 1;
}

using GradientItems = TaskItems<kMostGradientTasks>;

__global__ void __launch_bounds__(kGradientThreads)
    linear_gradients_kernel(const __grid_constant__ LinearGradientPass pass,
                            const __grid_constant__ GradientItems items) {
  SPARSE_AASIST_SHARED(Quad<float>, room,
                       kGradientWarps * kGradientRoom / kQuad);
  for (int64_t i = blockIdx.x; i < items.count; i += gridDim.x) {
    const TaskItem item = task_item(items, i);
    const LinearGradient& task = pass.tasks[item.task];
    const int64_t tiles = input_tiles(task);
    weight_gradient(task, pass.batch,
                    static_cast<int32_t>(item.item / tiles * kGradientOutputs),
                    static_cast<int32_t>(item.item % tiles * kGradientInputs),
                    reinterpret_cast<float*>(room));
    __syncthreads();
  }
}
static_assert(sizeof(LinearGradientPass) + sizeof(GradientItems) <= 4096,
              "parameters of a kernel");

using NormalisationItems = TaskItems<kMostNormalisedTasks>;

__global__ void __launch_bounds__(kNormThreads)
    normalised_rows_kernel(const __grid_constant__ NormalisationPass pass,
                           const __grid_constant__ NormalisationItems items) {
  SPARSE_AASIST_SHARED(double, room, kNormRoom);
  for (int64_t i = blockIdx.x; i < items.count; i += gridDim.x) {
    const TaskItem item = task_item(items, i);
    normalise_columns(pass.tasks[item.task],
                      static_cast<int32_t>(item.item) * kNormColumns, room);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kNormThreads) normalised_rows_backward_kernel(
    const __grid_constant__ NormalisationPass pass,
    const __grid_constant__ NormalisationItems items) {
  SPARSE_AASIST_SHARED(double, room, kNormRoom);
  for (int64_t i = blockIdx.x; i < items.count; i += gridDim.x) {
    const TaskItem item = task_item(items, i);
    normalise_columns_backward(pass.tasks[item.task],
                               static_cast<int32_t>(item.item) * kNormColumns,
                               room);
    __syncthreads();
  }
}

// Items of a pass; `items_of_task` tells how many a task has.
template <class Items, class Pass, class ItemsOfTask>
Items items_for(const Pass& pass, const ItemsOfTask& items_of_task) {
  Items items;
  for (int32_t task = 0; task < pass.count; ++task)
    items.add(items_of_task(pass.tasks[task]));
  return items;
}

NormalisationItems normalisation_items(const NormalisationPass& pass) {
  return items_for<NormalisationItems>(pass, [](const NormalisedRows& task) {
    return pieces(task.width, kNormColumns);
  });
}

}  // namespace

const char* linear_rows_cuda(const LinearPass& pass, void* stream) {
  const auto items = items_for<LinearItems>(pass, [&](const LinearRows& task) {
    return pieces(pass.batch * task.count, kTileRows) *
           pieces(task.outputs, kTileOutputs);
  });
  return SPARSE_AASIST_LAUNCH(linear_rows_kernel, blocks_for(items.count),
                              kAttentionThreads, 0, stream, pass, items);
}

const char* linear_gradients_cuda(const LinearGradientPass& pass,
                                  void* stream) {
  const auto items =
      items_for<GradientItems>(pass, [&](const LinearGradient& task) {
        return pieces(task.outputs, kGradientOutputs) * input_tiles(task);
      });
  return SPARSE_AASIST_LAUNCH(linear_gradients_kernel, blocks_for(items.count),
                              kGradientThreads, 0, stream, pass, items);
}

const char* normalised_rows_cuda(const NormalisationPass& pass, void* stream) {
  const NormalisationItems items = normalisation_items(pass);
  return SPARSE_AASIST_LAUNCH(normalised_rows_kernel, blocks_for(items.count),
                              kNormThreads, 0, stream, pass, items);
}

const char* normalised_rows_backward_cuda(const NormalisationPass& pass,
                                          void* stream) {
  const NormalisationItems items = normalisation_items(pass);
  return SPARSE_AASIST_LAUNCH(normalised_rows_backward_kernel,
                              blocks_for(items.count), kNormThreads, 0, stream,
                              pass, items);
}

}  // namespace sparse_aasist
