// What a thread needs beside its tensors for graph_attention: the nodes and
// weights of its clip, padded so that rows are whole vectors, and a chunk of
// pairs.
#pragma once

#include <cstdint>

#include "graph_attention.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Entries of a row after padding with zeros, at every SIMD level.
inline int64_t padded(int64_t size) {
  return (size + 15) / 16 * 16;
}

constexpr int32_t kChunkPairs = 64;

template <class T>
struct PackedScore {
  T* by_dim;     // (dim, hidden)
  T* by_hidden;  // (hidden, dim)
  T* bias;       // (hidden)
  T* vectors;    // (types, hidden)
};

template <class T>
struct ScoreSums {
  T* weight;   // (hidden, dim)
  T* bias;     // (hidden)
  T* vectors;  // (types, hidden)
};

template <class T>
struct GraphScratch {
  T* nodes;         // (nodes, dim)
  T* nodes_by_dim;  // (dim, nodes)
  T* grad_out;      // (nodes, dim)
  T* dx;            // (nodes, dim)
  T* master;        // (dim)
  T* dmaster;       // (dim)
  T* grad_summary;  // (dim)
  PackedScore<T> pairs, master_score;
  ScoreSums<T> pair_sums, master_sums;
  // Of a chunk: products of nodes, hidden layer, the gradients of both.
  T* products;       // (kChunkPairs, dim)
  T* hidden;         // (kChunkPairs, hidden)
  T* grad_hidden;    // (kChunkPairs, hidden)
  T* grad_products;  // (kChunkPairs, dim)
  T* coefficients;   // (kChunkPairs)
  T* rows;           // (4, nodes)
  int64_t bytes;     // of all
};

// Lays the arrays out behind `base`, which is a multiple of 64 bytes; null
// tells the size.
template <class T>
inline GraphScratch<T> graph_scratch(const GraphAttentionParams& params,
                                     void* base) {
  const int64_t dim = padded(params.dim), hidden = padded(params.hidden);
  const int64_t nodes = params.nodes;
  int64_t taken = 0;
  const auto take = [&](int64_t count) {
    const auto address = reinterpret_cast<uintptr_t>(base);
    T* const array = reinterpret_cast<T*>(address + taken * sizeof(T));
    taken += padded(count);
    return array;
  };
  const auto take_score = [&] {
    return PackedScore<T>{take(dim * hidden), take(hidden * dim), take(hidden),
                          take(kMostTypes * hidden)};
  };
  const auto take_sums = [&] {
    return ScoreSums<T>{take(hidden * dim), take(hidden),
                        take(kMostTypes * hidden)};
  };
  GraphScratch<T> s;
  s.nodes = take(nodes * dim);
  s.nodes_by_dim = take(dim * padded(nodes));
  s.grad_out = take(nodes * dim);
  s.dx = take(nodes * dim);
  s.master = take(dim);
  s.dmaster = take(dim);
  s.grad_summary = take(dim);
  s.pairs = take_score();
  s.master_score = take_score();
  s.pair_sums = take_sums();
  s.master_sums = take_sums();
  s.products = take(kChunkPairs * dim);
  s.hidden = take(kChunkPairs * hidden);
  s.grad_hidden = take(kChunkPairs * hidden);
  s.grad_products = take(kChunkPairs * dim);
  s.coefficients = take(kChunkPairs);
  s.rows = take(4 * padded(nodes));
  s.bytes = taken * static_cast<int64_t>(sizeof(T));
  return s;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
