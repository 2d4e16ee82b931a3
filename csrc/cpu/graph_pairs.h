// Chunks of pairs of nodes, and the hidden layer of their scores.
#pragma once

#include <cstdint>

#include "graph_scratch.h"
#include "kept_rows.h"
#include "small_product.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Rows of `width` values become rows of padded(width), with zeros behind.
template <class Format>
inline void pack_rows(const void* from,
                      int64_t rows,
                      int64_t width,
                      Real<Format>* to) {
  const auto* bits = static_cast<const typename Format::Bits*>(from);
  for (int64_t row = 0; row < rows; ++row, bits += width, to += padded(width)) {
    for (int64_t i = 0; i < width; ++i)
      to[i] = static_cast<Real<Format>>(Format::to_double(bits[i]));
    for (int64_t i = width; i < padded(width); ++i)
      to[i] = 0;
  }
}

template <class Format>
inline void unpack_rows(const Real<Format>* from,
                        int64_t rows,
                        int64_t width,
                        void* to) {
  auto* bits = static_cast<typename Format::Bits*>(to);
  for (int64_t row = 0; row < rows; ++row, bits += width, from += padded(width))
    for (int64_t i = 0; i < width; ++i)
      bits[i] = Format::from_double(static_cast<double>(from[i]));
}

template <class T>
inline void fill(T* to, int64_t count, T value) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = value;
}

// (rows, columns) -> (columns, rows), both padded.
template <class T>
inline void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  fill<T>(to, columns * padded(rows), 0);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column)
      to[column * padded(rows) + row] = from[row * padded(columns) + column];
}

template <class Format>
inline void pack_score(const GraphAttentionParams& params,
                       const GraphScore& score,
                       int32_t types,
                       const PackedScore<Real<Format>>& to) {
  pack_rows<Format>(score.weight, params.hidden, params.dim, to.by_hidden);
  transpose(to.by_hidden, params.hidden, params.dim, to.by_dim);
  pack_rows<Format>(score.bias, 1, params.hidden, to.bias);
  for (int32_t type = 0; type < types; ++type)
    pack_rows<Format>(score.vectors[type], 1, params.hidden,
                      to.vectors + type * padded(params.hidden));
}

// Packs the nodes of a clip.
template <class Format>
inline void pack_clip(const GraphAttentionParams& params,
                      int64_t clip,
                      Real<Format>* to) {
  using Bits = typename Format::Bits;
  const int64_t size = int64_t{params.nodes} * params.dim;
  pack_rows<Format>(at<Bits>(params.x, clip * size), params.nodes, params.dim,
                    to);
}

// End of the rows from `begin` on that are multiplied together: few, of one
// clip, and before `end`.
inline int64_t end_of_block(int64_t begin, int64_t end, int64_t nodes) {
  const int64_t clip_end = (begin / nodes + 1) * nodes;
  const int64_t last = clip_end < end ? clip_end : end;
  return begin + kTileRows < last ? begin + kTileRows : last;
}

// Pairs of a row of `left` and one of `right`.
template <class T>
struct Chunk {
  const T* left;
  const T* right;
  int32_t count = 0;
  int32_t first[kChunkPairs] = {};
  int32_t second[kChunkPairs] = {};
  int32_t type[kChunkPairs] = {};
};

// The pairs (i, j), i <= j, of a graph, from the one of number `begin` on.
class PairWalk {
 public:
  PairWalk(const GraphAttentionParams& params, int64_t begin)
      : nodes_(params.nodes), num_type1_(params.num_type1) {
    while (begin >= nodes_ - i_)
      begin -= nodes_ - i_++;
    j_ = i_ + static_cast<int32_t>(begin);
  }

  template <class T>
  void next(int64_t count, Chunk<T>& chunk) {
    chunk.count =
        static_cast<int32_t>(count < kChunkPairs ? count : kChunkPairs);
    for (int32_t p = 0; p < chunk.count; ++p) {
      chunk.first[p] = i_;
      chunk.second[p] = j_;
      chunk.type[p] = pair_type(i_, j_, num_type1_);
      if (++j_ == nodes_)
        j_ = ++i_;
    }
  }

 private:
  int32_t nodes_, num_type1_;
  int32_t i_ = 0, j_ = 0;
};

// The master with nodes from `begin` on.
template <class T>
inline void next_of_master(int32_t begin, int32_t nodes, Chunk<T>& chunk) {
  const int32_t left = nodes - begin;
  chunk.count = left < kChunkPairs ? left : kChunkPairs;
  for (int32_t p = 0; p < chunk.count; ++p) {
    chunk.first[p] = 0;
    chunk.second[p] = begin + p;
    chunk.type[p] = 0;
  }
}

// s.products and s.hidden of a chunk: tanh(W (x_i * x_j) + b).
template <class T>
inline void hidden_layer(const GraphAttentionParams& params,
                         const PackedScore<T>& score,
                         const Chunk<T>& chunk,
                         const GraphScratch<T>& s) {
  const int32_t dim = static_cast<int32_t>(padded(params.dim));
  const int32_t hidden = static_cast<int32_t>(padded(params.hidden));
  for (int32_t p = 0; p < chunk.count; ++p) {
    const T* a = chunk.left + chunk.first[p] * int64_t{dim};
    const T* b = chunk.right + chunk.second[p] * int64_t{dim};
    for (int32_t d = 0; d < dim; d += kLanes<T>)
      store<T>(s.products + p * dim + d, load(a + d) * load(b + d));
  }
  multiply<T>({chunk.count, hidden, params.dim, s.products, dim, 1,
               score.by_dim, hidden, score.bias, 0, s.hidden, hidden});
  for (int32_t i = 0; i < chunk.count * hidden; i += kLanes<T>)
    store<T>(s.hidden + i, tanh_of(load(s.hidden + i)));
}

// v . hidden of pair p of the chunk, without the temperature.
template <class T>
inline T raw_score(const GraphAttentionParams& params,
                   const PackedScore<T>& score,
                   const Chunk<T>& chunk,
                   int32_t p,
                   const GraphScratch<T>& s) {
  const int64_t hidden = padded(params.hidden);
  const T* vector = score.vectors + chunk.type[p] * hidden;
  const T* values = s.hidden + p * hidden;
  Vector<T> sum{};
  int32_t o = 0;
  for (; o + kLanes<T> <= params.hidden; o += kLanes<T>)
    sum += load(values + o) * load(vector + o);
  // Not the padding, which is NaN where a product of nodes is infinite.
  if (o < params.hidden)
    sum += load_some(values + o, params.hidden - o) * load(vector + o);
  return sum_lanes<T>(sum);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
