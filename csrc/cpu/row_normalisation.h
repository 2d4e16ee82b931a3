// Batch normalisation of rows and its gradient, some columns at a time.
#pragma once

#include <cstdint>

#include "graph_stack_rows.h"
#include "row_passes.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Rows of `columns` neighbours, `stride` apart, become rows of kItemColumns,
// with zeros behind.
template <class T>
void pack_columns(const T* from,
                  int64_t stride,
                  int32_t rows,
                  int32_t columns,
                  T* to) {
  for (int32_t r = 0; r < rows; ++r, from += stride, to += kItemColumns) {
    if (columns == kItemColumns) {
      __builtin_memcpy(to, from, kItemColumns * sizeof(T));
      continue;
    }
    fill<T>(to, kItemColumns, 0);
    for (int32_t c = 0; c < columns; ++c)
      to[c] = from[c];
  }
}

// kLanes<double> entries.
template <class T>
Vector<double> load_doubles(const T* from) {
  typedef T Part __attribute__((
      vector_size(kLanes<double> * static_cast<int>(sizeof(T)))));
  Part part;
  __builtin_memcpy(&part, from, sizeof(part));
  return __builtin_convertvector(part, Vector<double>);
}

// A sum of each column of an item.
class ColumnSums {
 public:
  // Adds value(c), a vector, to the sums of columns from c on.
  template <class Value>
  void add(const Value& value) {
    for (int v = 0; v < kVectors; ++v)
      sums_[v] += value(v * kLanes<double>);
  }

  void means(int64_t rows, double* to) const {
    for (int v = 0; v < kVectors; ++v)
      store<double>(to + v * kLanes<double>,
                    sums_[v] / static_cast<double>(rows));
  }

  template <class T>
  void write(T* to, int32_t columns) const {
    double sums[kItemColumns];
    means(1, sums);
    for (int32_t c = 0; c < columns; ++c)
      to[c] = static_cast<T>(sums[c]);
  }

 private:
  static constexpr int kVectors = kItemColumns / kLanes<double>;
  Vector<double> sums_[kVectors] = {};
};

// The columns of an item. There are kItemColumns or, at the end of a row, fewer
// and zeros behind them: so the passes below take whole vectors.
template <class T>
class Columns {
 public:
  Columns(const NormalisedRows& task, int32_t first)
      : rows_(task.rows),
        width_(task.width),
        first_(first),
        count_(task.width - first < kItemColumns ? task.width - first
                                                 : kItemColumns) {}

  int32_t count() const { return count_; }
  T* of(void* values) const { return at<T>(values, first_); }

  void read(const void* values, T* to) const {
    pack_columns<T>(at<T>(values, first_), 0, 1, count_, to);
  }

  // Calls run(x row, y row) for what they have in these columns.
  template <class Run>
  void for_each_row(const void* x, const void* y, const Run& run) const {
    T room[2][kItemColumns];
    const T* from[2] = {at<T>(x, first_), at<T>(y, first_)};
    for (int64_t row = 0; row < rows_; ++row) {
      const T* values[2];
      for (int i = 0; i < 2; ++i) {
        values[i] = from[i];
        if (count_ < kItemColumns && from[i] != nullptr) {
          pack_columns<T>(from[i], 0, 1, count_, room[i]);
          values[i] = room[i];
        }
        from[i] = at<T>(from[i], width_);
      }
      run(row, values[0], values[1]);
    }
  }

  void write(const T* values, int64_t row, void* to) const {
    T* const out = of(to) + row * width_;
    if (count_ == kItemColumns)
      __builtin_memcpy(out, values, kItemColumns * sizeof(T));
    else
      for (int32_t c = 0; c < count_; ++c)
        out[c] = values[c];
  }

 private:
  const int64_t rows_, width_;
  const int32_t first_, count_;
};

// y = xhat * weight + bias for xhat = (x - mean) * factor.
template <class T>
struct Normaliser {
  T mean[kItemColumns], factor[kItemColumns];
  T weight[kItemColumns], bias[kItemColumns];

  // From the mean and variance that the task has, as they are rounded there:
  // so both directions see the same y.
  Normaliser(const NormalisedRows& task, const Columns<T>& columns) {
    T variance[kItemColumns];
    columns.read(task.mean, mean);
    columns.read(task.variance, variance);
    columns.read(task.weight, weight);
    columns.read(task.bias, bias);
    for (int32_t c = 0; c < kItemColumns; ++c)
      factor[c] = static_cast<T>(
          1 / __builtin_sqrt(static_cast<double>(variance[c]) + task.eps));
  }

  Vector<T> normalised(const T* x, int32_t c) const {
    return (load(x + c) - load(mean + c)) * load(factor + c);
  }
  Vector<T> scaled(Vector<T> normalised, int32_t c) const {
    return normalised * load(weight + c) + load(bias + c);
  }
};

// selu'(y).
template <class T>
Vector<T> selu_slope(Vector<T> y) {
  constexpr T kScale = static_cast<T>(kSeluScale);
  constexpr T kSlope = static_cast<T>(kSeluScale * kSeluAlpha);
  // A comparison in this order keeps NaN.
  const Vector<T> below = kSlope * exp_of_negative(y > 0 ? splat<T>(0) : y);
  return y > 0 ? splat(kScale) : below;
}

template <class T>
void take_statistics(const NormalisedRows& task, const Columns<T>& columns) {
  double means[kItemColumns];
  ColumnSums sums, squares;
  columns.for_each_row(task.x, nullptr, [&](int64_t, const T* x, const T*) {
    sums.add([&](int32_t c) { return load_doubles(x + c); });
  });
  sums.means(task.rows, means);
  columns.for_each_row(task.x, nullptr, [&](int64_t, const T* x, const T*) {
    squares.add([&](int32_t c) {
      const Vector<double> distance = load_doubles(x + c) - load(means + c);
      return distance * distance;
    });
  });
  double variances[kItemColumns];
  squares.means(task.rows, variances);
  for (int32_t c = 0; c < columns.count(); ++c) {
    columns.of(task.mean)[c] = static_cast<T>(means[c]);
    columns.of(task.variance)[c] = static_cast<T>(variances[c]);
  }
}

template <class T>
void normalise(const NormalisedRows& task, int32_t first) {
  const Columns<T> columns(task, first);
  take_statistics<T>(task, columns);
  const Normaliser<T> normaliser(task, columns);
  columns.for_each_row(task.x, nullptr, [&](int64_t row, const T* x, const T*) {
    T out[kItemColumns];
    for (int32_t c = 0; c < kItemColumns; c += kLanes<T>)
      store<T>(out + c,
               selu_of<T>(normaliser.scaled(normaliser.normalised(x, c), c)));
    columns.write(out, row, task.out);
  });
}

template <class T>
void normalise_backward(const NormalisedRows& task, int32_t first) {
  const Columns<T> columns(task, first);
  const Normaliser<T> normaliser(task, columns);
  ColumnSums sums, products;
  // The gradients of y wait in dx until their means are known.
  columns.for_each_row(
      task.x, task.grad, [&](int64_t row, const T* x, const T* grad) {
        T normalised[kItemColumns], dy[kItemColumns];
        for (int32_t c = 0; c < kItemColumns; c += kLanes<T>) {
          const Vector<T> xhat = normaliser.normalised(x, c);
          store<T>(normalised + c, xhat);
          store<T>(dy + c,
                   load(grad + c) * selu_slope<T>(normaliser.scaled(xhat, c)));
        }
        sums.add([&](int32_t c) { return load_doubles(dy + c); });
        products.add([&](int32_t c) {
          return load_doubles(dy + c) * load_doubles(normalised + c);
        });
        columns.write(dy, row, task.dx);
      });
  double means[2][kItemColumns];
  sums.means(task.rows, means[0]);
  products.means(task.rows, means[1]);
  T mean_dy[kItemColumns], mean_product[kItemColumns], factor[kItemColumns];
  for (int32_t c = 0; c < kItemColumns; ++c) {
    mean_dy[c] = static_cast<T>(means[0][c]);
    mean_product[c] = static_cast<T>(means[1][c]);
    factor[c] = normaliser.weight[c] * normaliser.factor[c];
  }
  columns.for_each_row(
      task.x, task.dx, [&](int64_t row, const T* x, const T* dy) {
        T dx[kItemColumns];
        for (int32_t c = 0; c < kItemColumns; c += kLanes<T>)
          store<T>(dx + c,
                   load(factor + c) *
                       (load(dy + c) - load(mean_dy + c) -
                        normaliser.normalised(x, c) * load(mean_product + c)));
        columns.write(dx, row, task.dx);
      });
  products.write(columns.of(task.dweight), columns.count());
  sums.write(columns.of(task.dbias), columns.count());
  for (void* lost : task.lost)
    if (lost != nullptr)
      fill<T>(columns.of(lost), columns.count(), 0);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
