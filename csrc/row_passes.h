// What lies between the graph ops when the graph half of AASIST is trained:
// linear layers of rows and their gradients, and batch normalisation with SELU.
// Parameters and launchers, free of torch.
//
// A pass does several tasks at once, so that a GPU needs one launch for all of
// a stage. All values have the format of the pass, float32 or float64.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "simd_level.h"

namespace sparse_aasist {

// Rows of all clips: a clip's lie one behind the other, without gaps, from
// values + clip * stride on. Where stride is 0 all clips have the same ones.
struct ClipRows {
  void* values;  // null: there are none
  int64_t stride;
};

constexpr int32_t kMostProducts = 2;
constexpr int32_t kMostAddends = 2;

// out = (sum of rows weight^T + bias, and of the addends) * scale, of `count`
// rows a clip. With `transposed`, rows weight: the gradient of a layer's input.
struct LinearRows {
  int32_t count;
  int32_t inputs;   // 1..kMaxWidth, also the width of `rows`
  int32_t outputs;  // likewise of all else
  bool transposed;
  struct {
    ClipRows rows;
    const void* weight;  // (outputs, inputs); transposed: (inputs, outputs)
    const void* bias;    // (outputs), or null
  } products[kMostProducts];  // those behind the first may have no rows
  ClipRows addends[kMostAddends];
  ClipRows scale;
  ClipRows out;  // may be an addend, entry by entry
};

constexpr int32_t kMostLinearTasks = 4;

struct LinearPass {
  FloatFormat format;
  int64_t batch;  // 1 or more, as below
  int32_t count;  // of tasks
  LinearRows tasks[kMostLinearTasks];
};

// The gradients of a linear layer: sums over the rows of all clips, of
// grad^T rows and of grad.
struct LinearGradient {
  int32_t count;    // rows of a clip
  int32_t inputs;   // 1..kMaxWidth
  int32_t outputs;  // 1..kMaxWidth; without a weight also more
  ClipRows rows;    // (count, inputs)
  ClipRows grad;    // (count, outputs)
  void* weight;     // (outputs, inputs), or null: bias only, rows are not read
  void* bias;       // (outputs), or null: not wanted
};

constexpr int32_t kMostGradientTasks = 32;

struct LinearGradientPass {
  FloatFormat format;
  int64_t batch;
  int32_t count;
  LinearGradient tasks[kMostGradientTasks];
};

// Batch normalisation over all rows of all clips together, then SELU:
//   y = (x - mean) / sqrt(variance + eps) * weight + bias; out = selu(y)
// The variance is biased. Sums are in float64.
struct NormalisedRows {
  int64_t rows;  // of all clips, 2 or more
  int32_t width;
  double eps;
  const void* weight;  // (width)
  const void* bias;
  const void* x;   // (rows, width)
  void* mean;      // (width)
  void* variance;  // (width)
  void* out;       // (rows, width)
  // Of the backward pass, which reads mean and variance and not out.
  const void* grad;  // (rows, width), of out
  void* dx;          // (rows, width)
  void* dweight;     // (width)
  void* dbias;
  // (width): the gradients of biases that are added to x. The mean takes them
  // away, so these become 0.
  void* lost[kMostProducts];
};

constexpr int32_t kMostNormalisedTasks = 2;

struct NormalisationPass {
  FloatFormat format;
  int32_t count;
  NormalisedRows tasks[kMostNormalisedTasks];
};

// Columns of a normalisation, or rows of a weight's gradient, that make an item
// on a CPU.
constexpr int32_t kItemColumns = 16;

SPARSE_AASIST_HOST_INLINE int64_t item_columns(int32_t width) {
  return (int64_t{width} + kItemColumns - 1) / kItemColumns;
}

inline int64_t items_of(const LinearPass& pass) {
  return pass.count * pass.batch;
}

inline int64_t items_of(const LinearGradientPass& pass) {
  int64_t items = 0;
  for (int32_t task = 0; task < pass.count; ++task)
    items += item_columns(pass.tasks[task].outputs);
  return items;
}

inline int64_t items_of(const NormalisationPass& pass) {
  int64_t items = 0;
  for (int32_t task = 0; task < pass.count; ++task)
    items += item_columns(pass.tasks[task].width);
  return items;
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Scratch of all functions below, in bytes; a multiple of 64.
    int64_t row_passes_scratch_cpu(FloatFormat format);

    // Items [begin, end): clips of the first task, then of the next.
    void linear_rows_cpu(const LinearPass& pass,
                         int64_t begin,
                         int64_t end,
                         void* scratch);
    // Items [begin, end): kItemColumns outputs each, of the first task, then of
    // the next. The order of sums depends on the sizes alone.
    void linear_gradients_cpu(const LinearGradientPass& pass,
                              int64_t begin,
                              int64_t end,
                              void* scratch);
    // Items [begin, end): kItemColumns columns each.
    void normalised_rows_cpu(const NormalisationPass& pass,
                             int64_t begin,
                             int64_t end,
                             void* scratch);
    void normalised_rows_backward_cpu(const NormalisationPass& pass,
                                      int64_t begin,
                                      int64_t end,
                                      void* scratch);)

// float32 only; a launch each.
const char* linear_rows_cuda(const LinearPass& pass, void* stream);
const char* linear_gradients_cuda(const LinearGradientPass& pass, void* stream);
const char* normalised_rows_cuda(const NormalisationPass& pass, void* stream);
const char* normalised_rows_backward_cuda(const NormalisationPass& pass,
                                          void* stream);

}  // namespace sparse_aasist
