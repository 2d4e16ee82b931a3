// Linear layers and batch normalisation of rows on a CPU.
#include "row_passes.h"

#include "graph_stack_rows.h"
#include "row_normalisation.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

constexpr int32_t kBlockRows = 32;  // in scratch at a time

template <class T>
struct RowScratch {
  T* weights[kMostProducts];  // (inputs, outputs), padded rows
  T* bias;                    // (outputs), padded
  T* rows;                    // (kBlockRows, width), padded rows
  T* grads;                   // (kBlockRows, kItemColumns)
  T* sums;                    // (kItemColumns, inputs), padded rows
  int64_t bytes;
};

template <class T>
RowScratch<T> row_scratch(void* base) {
  int64_t taken = 0;
  const auto take = [&](int64_t count) {
    const auto address = reinterpret_cast<uintptr_t>(base);
    T* const array = reinterpret_cast<T*>(address + taken * sizeof(T));
    taken += padded(count);
    return array;
  };
  RowScratch<T> s;
  for (T*& weight : s.weights)
    weight = take(int64_t{kMaxWidth} * kMaxWidth);
  s.bias = take(kMaxWidth);
  s.rows = take(int64_t{kBlockRows} * kMaxWidth);
  s.grads = take(int64_t{kBlockRows} * kItemColumns);
  s.sums = take(int64_t{kItemColumns} * kMaxWidth);
  s.bytes = taken * static_cast<int64_t>(sizeof(T));
  return s;
}

template <class T>
T* of_clip(const ClipRows& rows, int64_t clip) {
  return at<T>(rows.values, clip * rows.stride);
}

// Weights and the sum of biases of the products that a task has.
template <class Format>
void pack_task(const LinearRows& task, const RowScratch<Real<Format>>& s) {
  using T = Real<Format>;
  fill<T>(s.bias, padded(task.outputs), 0);
  for (int32_t p = 0; p < kMostProducts; ++p) {
    const auto& product = task.products[p];
    if (product.rows.values == nullptr)
      continue;
    if (task.transposed)
      pack_rows<Format>(product.weight, task.inputs, task.outputs,
                        s.weights[p]);
    else
      pack_weight<T>(product.weight, task.inputs, task.outputs, nullptr,
                     s.weights[p]);
    if (product.bias == nullptr)
      continue;
    for (int32_t o = 0; o < task.outputs; ++o)
      s.bias[o] += static_cast<const T*>(product.bias)[o];
  }
}

// Adds and scales `count` rows of sums, from `row` of a clip on.
template <class T>
void finish_rows(const LinearRows& task,
                 int64_t clip,
                 int32_t row,
                 int32_t count,
                 const T* sums) {
  const int32_t outputs = task.outputs;
  const int64_t first = int64_t{row} * outputs;
  const T* addends[kMostAddends];
  for (int32_t i = 0; i < kMostAddends; ++i)
    addends[i] = at<T>(of_clip<const T>(task.addends[i], clip), first);
  const T* scale = at<T>(of_clip<const T>(task.scale, clip), first);
  T* out = of_clip<T>(task.out, clip) + first;
  const auto finished = [&](Vector<T> sum, const auto& vector_of) {
    for (const T* addend : addends)
      if (addend != nullptr)
        sum += vector_of(addend);
    return scale == nullptr ? sum : sum * vector_of(scale);
  };
  for (int32_t r = 0; r < count; ++r, sums += padded(outputs)) {
    const int64_t offset = int64_t{r} * outputs;
    int32_t o = 0;
    for (; o + kLanes<T> <= outputs; o += kLanes<T>)
      store<T>(out + offset + o, finished(load(sums + o), [&](const T* from) {
                 return load(from + offset + o);
               }));
    const int32_t left = outputs - o;
    if (left > 0)
      store_some<T>(out + offset + o,
                    finished(load(sums + o),
                             [&](const T* from) {
                               return load_some(from + offset + o, left);
                             }),
                    left);
  }
}

template <class T>
void run_rows(const LinearRows& task, int64_t clip, const RowScratch<T>& s) {
  const int32_t inputs = task.inputs;
  const int32_t width = static_cast<int32_t>(padded(task.outputs));
  for (int32_t row = 0; row < task.count; row += kBlockRows) {
    const int32_t left = task.count - row;
    const int32_t count = left < kBlockRows ? left : kBlockRows;
    const T* start = s.bias;
    int64_t start_row = 0;
    for (int32_t p = 0; p < kMostProducts; ++p) {
      const T* from = of_clip<T>(task.products[p].rows, clip);
      if (from == nullptr)
        continue;
      multiply<T>({count, width, inputs, from + int64_t{row} * inputs, inputs,
                   1, s.weights[p], width, start, start_row, s.rows, width});
      start = s.rows;
      start_row = width;
    }
    finish_rows<T>(task, clip, row, count, s.rows);
  }
}

// Sums of a gradient's outputs [first, first + columns).
template <class Format>
class GradientSums {
  using T = Real<Format>;

 public:
  GradientSums(const LinearGradient& task,
               int32_t first,
               const RowScratch<T>& s)
      : task_(task),
        s_(s),
        first_(first),
        columns_(task.outputs - first < kItemColumns ? task.outputs - first
                                                     : kItemColumns),
        width_(task.weight != nullptr
                   ? static_cast<int32_t>(padded(task.inputs))
                   : 0) {
    fill<T>(s.sums, int64_t{columns_} * width_, 0);
  }

  void add_clip(int64_t clip) {
    const T* grad = of_clip<const T>(task_.grad, clip);
    const T* rows = of_clip<const T>(task_.rows, clip);
    for (int32_t row = 0; row < task_.count;) {
      const int32_t left = task_.count - row, room = kBlockRows - filled_;
      const int32_t count = left < room ? left : room;
      pack_columns<T>(grad + int64_t{row} * task_.outputs + first_,
                      task_.outputs, count, columns_,
                      s_.grads + filled_ * kItemColumns);
      if (width_ > 0)
        pack_rows<Format>(rows + int64_t{row} * task_.inputs, count,
                          task_.inputs, s_.rows + filled_ * width_);
      row += count;
      filled_ += count;
      if (filled_ == kBlockRows)
        add_block();
    }
  }

  void write() {
    add_block();
    for (int32_t c = 0; width_ > 0 && c < columns_; ++c)
      __builtin_memcpy(at<T>(task_.weight, int64_t{first_ + c} * task_.inputs),
                       s_.sums + c * width_,
                       static_cast<size_t>(task_.inputs) * sizeof(T));
    T* bias = at<T>(task_.bias, first_);
    for (int32_t c = 0; bias != nullptr && c < columns_; ++c)
      bias[c] = static_cast<T>(bias_[c]);
  }

 private:
  void add_block() {
    if (width_ > 0)
      multiply<T>({columns_, width_, filled_, s_.grads, 1, kItemColumns,
                   s_.rows, width_, s_.sums, width_, s_.sums, width_});
    for (int32_t r = 0; r < filled_; ++r)
      for (int32_t c = 0; c < kItemColumns; ++c)
        bias_[c] += s_.grads[r * kItemColumns + c];
    filled_ = 0;
  }

  const LinearGradient& task_;
  const RowScratch<T>& s_;
  const int32_t first_, columns_;
  const int32_t width_;  // 0: bias only
  int32_t filled_ = 0;   // rows of the block
  double bias_[kItemColumns] = {};
};

// Calls run(task, first column) for items [begin, end).
template <class Task, class Width, class Run>
void for_each_item(const Task* tasks,
                   int32_t count,
                   const Width& width_of,
                   int64_t begin,
                   int64_t end,
                   const Run& run) {
  for (int32_t task = 0; task < count; ++task) {
    const int64_t items = item_columns(width_of(tasks[task]));
    const int64_t last = end < items ? end : items;
    for (int64_t item = begin > 0 ? begin : 0; item < last; ++item)
      run(tasks[task], static_cast<int32_t>(item * kItemColumns));
    begin -= items;
    end -= items;
  }
}

}  // namespace

int64_t row_passes_scratch_cpu(FloatFormat format) {
  return is_double(format) ? row_scratch<double>(nullptr).bytes
                           : row_scratch<float>(nullptr).bytes;
}

void linear_rows_cpu(const LinearPass& pass,
                     int64_t begin,
                     int64_t end,
                     void* scratch) {
  with_real(pass.format, [&](auto format) {
    using Format = decltype(format);
    using T = Real<Format>;
    const RowScratch<T> s = row_scratch<T>(scratch);
    for (int32_t task = 0; task < pass.count; ++task) {
      const int64_t of_task = task * pass.batch;
      const int64_t first = begin > of_task ? begin - of_task : 0;
      const int64_t left = end - of_task;
      const int64_t last = left < pass.batch ? left : pass.batch;
      if (first < last)
        pack_task<Format>(pass.tasks[task], s);
      for (int64_t clip = first; clip < last; ++clip)
        run_rows<T>(pass.tasks[task], clip, s);
    }
  });
}

void linear_gradients_cpu(const LinearGradientPass& pass,
                          int64_t begin,
                          int64_t end,
                          void* scratch) {
  with_real(pass.format, [&](auto format) {
    using Format = decltype(format);
    using T = Real<Format>;
    const RowScratch<T> s = row_scratch<T>(scratch);
    for_each_item(
        pass.tasks, pass.count,
        [](const LinearGradient& task) { return task.outputs; }, begin, end,
        [&](const LinearGradient& task, int32_t first) {
          GradientSums<Format> sums(task, first, s);
          for (int64_t clip = 0; clip < pass.batch; ++clip)
            sums.add_clip(clip);
          sums.write();
        });
  });
}

void normalised_rows_cpu(const NormalisationPass& pass,
                         int64_t begin,
                         int64_t end,
                         void*) {
  with_real(pass.format, [&](auto format) {
    for_each_item(
        pass.tasks, pass.count,
        [](const NormalisedRows& task) { return task.width; }, begin, end,
        normalise<Real<decltype(format)>>);
  });
}

void normalised_rows_backward_cpu(const NormalisationPass& pass,
                                  int64_t begin,
                                  int64_t end,
                                  void*) {
  with_real(pass.format, [&](auto format) {
    for_each_item(
        pass.tasks, pass.count,
        [](const NormalisedRows& task) { return task.width; }, begin, end,
        normalise_backward<Real<decltype(format)>>);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
