// Items of several tasks that a launch has, one task behind the other.
#pragma once

#include <cstdint>

#include "launch.h"

namespace sparse_aasist {

template <int32_t kMost>
struct TaskItems {
  int32_t tasks = 0;
  int64_t count = 0;
  int64_t ends[kMost] = {};

  void add(int64_t items) {
    count += items;
    ends[tasks++] = count;
  }
};

struct TaskItem {
  int32_t task;
  int64_t item;  // of the task
};

// Compares with all ends rather than one after the other, which would wait for
// each.
template <int32_t kMost>
__device__ __forceinline__ TaskItem task_item(const TaskItems<kMost>& items,
                                              int64_t item) {
  TaskItem found = {0, item};
#pragma unroll
  for (int32_t task = 0; task < kMost; ++task)
    if (task < items.tasks && item >= items.ends[task])
      found = {task + 1, item - items.ends[task]};
  return found;
}

}  // namespace sparse_aasist
