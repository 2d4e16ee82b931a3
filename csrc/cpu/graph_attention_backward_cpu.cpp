// The gradients of graph_attention on a CPU. The hidden layer of a pair is
// computed again, once for both orders; a task sums what its pairs give, and
// the tasks are added up in order.
//
// With G the gradient of the output and c_ij = dS_ij + dS_ji, i < j,
//   dP = G X^T;  dS = P * (dP - rowsum(P * dP)) / temperature
//   Z_ij = c_ij v * (1 - H_ij^2)
//   dx_i += (Z_ij W) * x_j;  dx_j += (Z_ij W) * x_i;  dX += P^T G
//   dW += Z_ij (x_i * x_j)^T;  db += Z_ij;  dv += c_ij H_ij
// and for i = j the same with c_ii = dS_ii.
#include "graph_attention.h"

#include "graph_pairs.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// Turns dP into dS, of `count` probabilities.
template <class T>
void score_gradient(const T* p, const T* dp, int64_t count, T scale, T* ds) {
  T dot = 0;
  for (int64_t j = 0; j < count; ++j)
    dot += p[j] * dp[j];
  for (int64_t j = 0; j < count; ++j)
    ds[j] = p[j] * (dp[j] - dot) * scale;
}

template <class Format, class T = Real<Format>>
void backward_rows(const GraphAttentionBackwardParams& params,
                   int64_t begin,
                   int64_t end,
                   const GraphScratch<T>& s) {
  using Bits = typename Format::Bits;
  const GraphAttentionParams& forward = params.forward;
  const int64_t nodes = forward.nodes, dim = forward.dim;
  const int32_t width = static_cast<int32_t>(padded(nodes));
  const T scale = static_cast<T>(1 / forward.temperature);
  int64_t packed_clip = -1;
  while (begin < end) {
    const int64_t clip = begin / nodes;
    const int64_t block_end = end_of_block(begin, end, nodes);
    if (clip != packed_clip) {
      pack_clip<Format>(forward, clip, s.nodes);
      transpose<T>(s.nodes, nodes, dim, s.nodes_by_dim);
      packed_clip = clip;
    }
    const int32_t count = static_cast<int32_t>(block_end - begin);
    pack_rows<Format>(at<Bits>(params.grad_out, begin * dim), count, dim,
                      s.grad_out);
    multiply<T>({count, width, forward.dim, s.grad_out, padded(dim), 1,
                 s.nodes_by_dim, width, nullptr, 0, s.rows, width});
    for (int32_t r = 0; r < count; ++r)
      score_gradient<T>(at<T>(forward.attention, (begin + r) * nodes),
                        s.rows + r * width, nodes, scale,
                        at<T>(params.score_gradients, (begin + r) * nodes));
    begin = block_end;
  }
}

// Adds what a chunk gives to the sums of its score and to the gradients of
// both sides; s.coefficients holds c.
template <class T>
void backward_chunk(const GraphAttentionParams& params,
                    const PackedScore<T>& score,
                    const Chunk<T>& chunk,
                    T* dleft,
                    T* dright,
                    const ScoreSums<T>& sums,
                    const GraphScratch<T>& s) {
  const int32_t dim = static_cast<int32_t>(padded(params.dim));
  const int32_t hidden = static_cast<int32_t>(padded(params.hidden));
  hidden_layer<T>(params, score, chunk, s);
  // Runs of one type, which are long.
  for (int32_t run = 0, run_end; run < chunk.count; run = run_end) {
    for (run_end = run + 1; run_end < chunk.count; ++run_end)
      if (chunk.type[run_end] != chunk.type[run])
        break;
    const int64_t type = chunk.type[run];
    for (int32_t o = 0; o < hidden; o += kLanes<T>) {
      const Vector<T> vector = load(score.vectors + type * hidden + o);
      Vector<T> dvector{}, dbias{};
      for (int32_t p = run; p < run_end; ++p) {
        const Vector<T> h = load(s.hidden + p * hidden + o);
        const Vector<T> c = splat(s.coefficients[p]);
        const Vector<T> z = c * vector * (1 - h * h);
        dvector += c * h;
        dbias += z;
        store<T>(s.grad_hidden + p * hidden + o, z);
      }
      T* total = sums.vectors + type * hidden + o;
      store<T>(total, load(total) + dvector);
      store<T>(sums.bias + o, load(sums.bias + o) + dbias);
    }
  }
  multiply<T>({chunk.count, dim, params.hidden, s.grad_hidden, hidden, 1,
               score.by_hidden, dim, nullptr, 0, s.grad_products, dim});
  for (int32_t p = 0; p < chunk.count; ++p) {
    const int64_t i = chunk.first[p] * int64_t{dim};
    const int64_t j = chunk.second[p] * int64_t{dim};
    for (int32_t d = 0; d < dim; d += kLanes<T>) {
      const Vector<T> grad = load(s.grad_products + p * dim + d);
      const Vector<T> left = load(chunk.left + i + d);
      const Vector<T> right = load(chunk.right + j + d);
      // One after the other: for i = j both go to one place.
      store<T>(dleft + i + d, load(dleft + i + d) + grad * right);
      store<T>(dright + j + d, load(dright + j + d) + grad * left);
    }
  }
  multiply<T>({params.hidden, dim, chunk.count, s.grad_hidden, 1, hidden,
               s.products, dim, sums.weight, dim, sums.weight, dim});
}

template <class T>
void clear(const GraphAttentionParams& params,
           int32_t types,
           const ScoreSums<T>& sums) {
  const int64_t hidden = padded(params.hidden);
  fill<T>(sums.weight, hidden * padded(params.dim), 0);
  fill<T>(sums.bias, hidden, 0);
  fill<T>(sums.vectors, types * hidden, 0);
}

// Without padding; returns the end.
template <class T>
T* write_sums(const GraphAttentionParams& params,
              int32_t types,
              const ScoreSums<T>& sums,
              T* to) {
  for (int64_t o = 0; o < params.hidden; ++o)
    for (int64_t d = 0; d < params.dim; ++d)
      *to++ = sums.weight[o * padded(params.dim) + d];
  for (int64_t o = 0; o < params.hidden; ++o)
    *to++ = sums.bias[o];
  for (int64_t t = 0; t < types; ++t)
    for (int64_t o = 0; o < params.hidden; ++o)
      *to++ = sums.vectors[t * padded(params.hidden) + o];
  return to;
}

template <class Format, class T = Real<Format>>
void backward_pairs(const GraphAttentionBackwardParams& params,
                    int64_t clip,
                    int64_t begin,
                    int64_t end,
                    const GraphScratch<T>& s) {
  const GraphAttentionParams& forward = params.forward;
  const int64_t nodes = forward.nodes;
  const T* ds = at<T>(params.score_gradients, clip * nodes * nodes);
  PairWalk walk(forward, begin);
  for (Chunk<T> chunk{s.nodes, s.nodes}; begin < end; begin += chunk.count) {
    walk.next(end - begin, chunk);
    for (int32_t p = 0; p < chunk.count; ++p) {
      const int64_t i = chunk.first[p], j = chunk.second[p];
      s.coefficients[p] =
          i == j ? ds[i * nodes + i] : ds[i * nodes + j] + ds[j * nodes + i];
    }
    backward_chunk<T>(forward, s.pairs, chunk, s.dx, s.dx, s.pair_sums, s);
  }
}

template <class Format, class T = Real<Format>>
void backward_master(const GraphAttentionBackwardParams& params,
                     int64_t clip,
                     const GraphScratch<T>& s) {
  using Bits = typename Format::Bits;
  const GraphAttentionParams& forward = params.forward;
  const int32_t nodes = forward.nodes;
  const int32_t dim = static_cast<int32_t>(padded(forward.dim));
  const T* attention = at<T>(forward.master_attention, clip * int64_t{nodes});
  pack_rows<Format>(at<Bits>(forward.master, clip * forward.master_stride), 1,
                    forward.dim, s.master);
  pack_rows<Format>(at<Bits>(params.grad_summary, clip * forward.dim), 1,
                    forward.dim, s.grad_summary);
  fill<T>(s.dmaster, dim, 0);
  T* ds = s.rows;
  for (int64_t j = 0; j < nodes; ++j) {
    T dot = 0;
    for (int32_t d = 0; d < dim; ++d) {
      dot += s.grad_summary[d] * s.nodes[j * dim + d];
      s.dx[j * dim + d] += attention[j] * s.grad_summary[d];
    }
    ds[j] = dot;
  }
  score_gradient<T>(attention, ds, nodes,
                    static_cast<T>(1 / forward.temperature), ds);
  Chunk<T> chunk{s.master, s.nodes};
  for (int32_t j = 0; j < nodes; j += chunk.count) {
    next_of_master<T>(j, nodes, chunk);
    for (int32_t p = 0; p < chunk.count; ++p)
      s.coefficients[p] = ds[j + p];
    backward_chunk<T>(forward, s.master_score, chunk, s.dmaster, s.dx,
                      s.master_sums, s);
  }
  unpack_rows<Format>(s.dmaster, 1, forward.dim,
                      at<Bits>(params.dmaster, clip * forward.dim));
}

template <class Format, class T = Real<Format>>
void backward_task(const GraphAttentionBackwardParams& params,
                   const GraphTasks& tasks,
                   int64_t task,
                   const GraphScratch<T>& s) {
  using Bits = typename Format::Bits;
  const GraphAttentionParams& forward = params.forward;
  const int64_t nodes = forward.nodes, dim = forward.dim;
  const int32_t width = static_cast<int32_t>(padded(dim));
  const int64_t pairs = pair_count(forward.nodes);
  const int64_t part = task % tasks.parts;
  const int64_t first_clip = task / tasks.parts * tasks.clips;
  int64_t last_clip = first_clip + tasks.clips;
  last_clip = last_clip < forward.batch ? last_clip : forward.batch;
  const bool with_master = has_master(forward);
  clear<T>(forward, forward.types, s.pair_sums);
  if (with_master)
    clear<T>(forward, 1, s.master_sums);
  for (int64_t clip = first_clip; clip < last_clip; ++clip) {
    pack_clip<Format>(forward, clip, s.nodes);
    if (part == 0) {
      pack_rows<Format>(at<Bits>(params.grad_out, clip * nodes * dim), nodes,
                        dim, s.grad_out);
      const T* attention = at<T>(forward.attention, clip * nodes * nodes);
      multiply<T>({forward.nodes, width, forward.nodes, attention, 1, nodes,
                   s.grad_out, width, nullptr, 0, s.dx, width});
      if (with_master)
        backward_master<Format>(params, clip, s);
    } else {
      fill<T>(s.dx, nodes * width, 0);
    }
    backward_pairs<Format>(params, clip, pairs * part / tasks.parts,
                           pairs * (part + 1) / tasks.parts, s);
    if (tasks.parts == 1)
      unpack_rows<Format>(s.dx, nodes, dim,
                          at<Bits>(params.dx, clip * nodes * dim));
  }
  T* to = at<T>(params.partials, task * layer_size(forward));
  to = write_sums<T>(forward, forward.types, s.pair_sums, to);
  if (with_master)
    write_sums<T>(forward, 1, s.master_sums, to);
  if (tasks.parts > 1) {
    to = at<T>(params.partials,
               tasks.count * layer_size(forward) + task * nodes * dim);
    for (int64_t i = 0; i < nodes; ++i)
      for (int64_t d = 0; d < dim; ++d)
        *to++ = s.dx[i * width + d];
  }
}

template <class Format, class T = Real<Format>>
void add_partials(const GraphAttentionBackwardParams& params,
                  int64_t begin,
                  int64_t end) {
  using Bits = typename Format::Bits;
  const GraphAttentionParams& forward = params.forward;
  const GraphTasks tasks = graph_tasks(forward.batch, forward.nodes);
  const int64_t size = layer_size(forward);
  for (int64_t i = begin; i < end; ++i) {
    const bool of_layer = i < size;
    const int64_t clip_size = int64_t{forward.nodes} * forward.dim;
    const int64_t entry = of_layer ? i : (i - size) % clip_size;
    const int64_t clip = of_layer ? 0 : (i - size) / clip_size;
    const int64_t stride = of_layer ? size : clip_size;
    const int64_t count = of_layer ? tasks.count : tasks.parts;
    const T* from = at<T>(
        params.partials,
        of_layer ? entry
                 : tasks.count * size + clip * tasks.parts * clip_size + entry);
    double sum = 0;
    for (int64_t t = 0; t < count; ++t)
      sum += static_cast<double>(from[t * stride]);
    Bits* to = of_layer ? layer_entry<Bits>(params, entry)
                        : at<Bits>(params.dx, i - size);
    *to = Format::from_double(sum);
  }
}

}  // namespace

void graph_attention_backward_rows_cpu(
    const GraphAttentionBackwardParams& params,
    int64_t begin,
    int64_t end,
    void* scratch) {
  with_format(params.forward.format, [&](auto format) {
    using Format = decltype(format);
    backward_rows<Format>(params, begin, end,
                          graph_scratch<Real<Format>>(params.forward, scratch));
  });
}

void graph_attention_backward_tasks_cpu(
    const GraphAttentionBackwardParams& params,
    int64_t begin,
    int64_t end,
    void* scratch) {
  const GraphTasks tasks =
      graph_tasks(params.forward.batch, params.forward.nodes);
  with_format(params.forward.format, [&](auto format) {
    using Format = decltype(format);
    const auto s = graph_scratch<Real<Format>>(params.forward, scratch);
    pack_score<Format>(params.forward, params.forward.pairs,
                       params.forward.types, s.pairs);
    if (has_master(params.forward))
      pack_score<Format>(params.forward, params.forward.master_score, 1,
                         s.master_score);
    for (int64_t task = begin; task < end; ++task)
      backward_task<Format>(params, tasks, task, s);
  });
}

void graph_attention_backward_sum_cpu(
    const GraphAttentionBackwardParams& params,
    int64_t begin,
    int64_t end) {
  with_format(params.forward.format, [&](auto format) {
    add_partials<decltype(format)>(params, begin, end);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
