// graph_attention on a CPU. Pairs are scored in chunks, each a product of
// matrices; a pair is scored once for both of its orders.
#include "graph_attention.h"

#include "graph_pairs.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// softmax of `count` scores; behind them is room for a whole vector.
template <class T>
void softmax(T* scores, int64_t count) {
  const int64_t width = padded(count);
  fill<T>(scores + count, width - count, -__builtin_huge_val());
  Vector<T> highest = load(scores);
  for (int64_t j = 0; j < width; j += kLanes<T>)
    highest = higher<T>(highest, load(scores + j));
  const Vector<T> shift = splat(max_lanes<T>(highest));
  Vector<T> sum{};
  for (int64_t j = 0; j < width; j += kLanes<T>) {
    const Vector<T> power = exp_of_negative(load(scores + j) - shift);
    sum += power;
    store<T>(scores + j, power);
  }
  const Vector<T> scale = splat(1 / sum_lanes<T>(sum));
  for (int64_t j = 0; j < width; j += kLanes<T>)
    store<T>(scores + j, load(scores + j) * scale);
}

template <class Format, class T = Real<Format>>
void score_pairs(const GraphAttentionParams& params,
                 int64_t begin,
                 int64_t end,
                 const GraphScratch<T>& s) {
  const int64_t nodes = params.nodes, pairs = pair_count(params.nodes);
  const T temperature = static_cast<T>(params.temperature);
  pack_score<Format>(params, params.pairs, params.types, s.pairs);
  for (int64_t clip = begin / pairs; begin < end; ++clip) {
    const int64_t clip_end =
        (clip + 1) * pairs < end ? (clip + 1) * pairs : end;
    pack_clip<Format>(params, clip, s.nodes);
    T* scores = at<T>(params.attention, clip * nodes * nodes);
    PairWalk walk(params, begin - clip * pairs);
    for (Chunk<T> chunk{s.nodes, s.nodes}; begin < clip_end;
         begin += chunk.count) {
      walk.next(clip_end - begin, chunk);
      hidden_layer<T>(params, s.pairs, chunk, s);
      for (int32_t p = 0; p < chunk.count; ++p) {
        const T score =
            raw_score<T>(params, s.pairs, chunk, p, s) / temperature;
        const int64_t i = chunk.first[p], j = chunk.second[p];
        scores[i * nodes + j] = score;
        scores[j * nodes + i] = score;
      }
    }
  }
}

template <class Format, class T = Real<Format>>
void attend(const GraphAttentionParams& params,
            int64_t begin,
            int64_t end,
            const GraphScratch<T>& s) {
  const int32_t dim = static_cast<int32_t>(padded(params.dim));
  const int64_t nodes = params.nodes;
  int64_t packed_clip = -1;
  while (begin < end) {
    const int64_t clip = begin / nodes;
    const int64_t block_end = end_of_block(begin, end, nodes);
    if (clip != packed_clip)
      pack_clip<Format>(params, clip, s.nodes);
    packed_clip = clip;
    const int32_t count = static_cast<int32_t>(block_end - begin);
    for (int32_t r = 0; r < count; ++r) {
      T* attention = at<T>(params.attention, (begin + r) * nodes);
      T* row = s.rows + r * padded(nodes);
      __builtin_memcpy(row, attention, static_cast<size_t>(nodes) * sizeof(T));
      softmax<T>(row, nodes);
      __builtin_memcpy(attention, row, static_cast<size_t>(nodes) * sizeof(T));
    }
    multiply<T>({count, dim, params.nodes, s.rows, padded(nodes), 1, s.nodes,
                 dim, nullptr, 0, s.grad_out, dim});
    using Bits = typename Format::Bits;
    unpack_rows<Format>(s.grad_out, count, params.dim,
                        at<Bits>(params.out, begin * params.dim));
    begin = block_end;
  }
}

template <class Format, class T = Real<Format>>
void attend_master(const GraphAttentionParams& params,
                   int64_t begin,
                   int64_t end,
                   const GraphScratch<T>& s) {
  using Bits = typename Format::Bits;
  const int32_t dim = static_cast<int32_t>(padded(params.dim));
  const T temperature = static_cast<T>(params.temperature);
  pack_score<Format>(params, params.master_score, 1, s.master_score);
  for (int64_t clip = begin; clip < end; ++clip) {
    pack_clip<Format>(params, clip, s.nodes);
    pack_rows<Format>(at<Bits>(params.master, clip * params.master_stride), 1,
                      params.dim, s.master);
    Chunk<T> chunk{s.master, s.nodes};
    for (int32_t j = 0; j < params.nodes; j += chunk.count) {
      next_of_master<T>(j, params.nodes, chunk);
      hidden_layer<T>(params, s.master_score, chunk, s);
      for (int32_t p = 0; p < chunk.count; ++p)
        s.rows[j + p] =
            raw_score<T>(params, s.master_score, chunk, p, s) / temperature;
    }
    softmax<T>(s.rows, params.nodes);
    __builtin_memcpy(at<T>(params.master_attention, clip * params.nodes),
                     s.rows, static_cast<size_t>(params.nodes) * sizeof(T));
    multiply<T>({1, dim, params.nodes, s.rows, 0, 1, s.nodes, dim, nullptr, 0,
                 s.dmaster, dim});
    unpack_rows<Format>(s.dmaster, 1, params.dim,
                        at<Bits>(params.summary, clip * params.dim));
  }
}

}  // namespace

int64_t graph_attention_scratch_cpu(const GraphAttentionParams& params) {
  return is_double(params.format) ? graph_scratch<double>(params, nullptr).bytes
                                  : graph_scratch<float>(params, nullptr).bytes;
}

void graph_attention_scores_cpu(const GraphAttentionParams& params,
                                int64_t begin,
                                int64_t end,
                                void* scratch) {
  with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    score_pairs<Format>(params, begin, end,
                        graph_scratch<Real<Format>>(params, scratch));
  });
}

void graph_attention_rows_cpu(const GraphAttentionParams& params,
                              int64_t begin,
                              int64_t end,
                              void* scratch) {
  with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    attend<Format>(params, begin, end,
                   graph_scratch<Real<Format>>(params, scratch));
  });
}

void graph_attention_master_cpu(const GraphAttentionParams& params,
                                int64_t begin,
                                int64_t end,
                                void* scratch) {
  with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    attend_master<Format>(params, begin, end,
                          graph_scratch<Real<Format>>(params, scratch));
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
