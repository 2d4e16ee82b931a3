// graph_stack on a CPU: the kernels of graph_attention and graph_pool on some
// clips at a time, and what lies between them.
#include "graph_stack.h"

#include "graph_stack_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

constexpr int32_t kMixRows = 16;  // in scratch at a time

// Clips that go through the layers together share the packing of weights; their
// attention takes this many entries at most, unless one clip does.
constexpr int64_t kMostAttention = 1 << 20;

template <class T>
struct StackScratch {
  int64_t clips;
  T* attention;         // (clips, nodes, nodes)
  T* master_attention;  // (clips, nodes)
  T* read;              // (clips, nodes, dim)
  T* summary;           // (clips, dim)
  T* read_weight;       // (dim, hidden), padded rows
  T* own_weight;        // likewise
  T* shift;             // (hidden)
  T* rows;              // (kMixRows, hidden)
  int64_t* pool;        // 2 * nodes
  void* of_attention;   // the scratch of graph_attention
  int64_t bytes;
};

int64_t most_nodes(const GraphStackParams& params) {
  int64_t most = 1;
  for (int32_t half = 0; half < kHalves; ++half) {
    const int64_t first = params.first[half].attention.nodes;
    const int64_t joint = params.joint[half][0].attention.nodes;
    most = first > most ? first : most;
    most = joint > most ? joint : most;
  }
  return most;
}

template <class T>
StackScratch<T> stack_scratch(const GraphStackParams& params, void* base) {
  int64_t taken = 0;
  const auto take = [&](int64_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(base) + taken;
    taken += (bytes + 63) / 64 * 64;
    return reinterpret_cast<void*>(address);
  };
  constexpr int64_t kMatrix = int64_t{kMaxWidth} * kMaxWidth * sizeof(T);
  constexpr int64_t kRow = int64_t{kMaxWidth} * sizeof(T);
  const int64_t nodes = most_nodes(params), matrix = nodes * nodes;
  StackScratch<T> s;
  s.clips = matrix < kMostAttention ? kMostAttention / matrix : 1;
  s.clips = s.clips < params.batch ? s.clips : params.batch;
  const auto take_values = [&](int64_t count) {
    return static_cast<T*>(
        take(s.clips * count * static_cast<int64_t>(sizeof(T))));
  };
  s.attention = take_values(matrix);
  s.master_attention = take_values(nodes);
  s.read = take_values(nodes * kMaxWidth);
  s.summary = take_values(kMaxWidth);
  s.read_weight = static_cast<T*>(take(kMatrix));
  s.own_weight = static_cast<T*>(take(kMatrix));
  s.shift = static_cast<T*>(take(kRow));
  s.rows = static_cast<T*>(take(kMixRows * kRow));
  s.pool = static_cast<int64_t*>(take(2 * nodes * 8));
  s.of_attention = take(0);
  int64_t attention_bytes = 0;
  const auto cover = [&](const StackLayer& layer) {
    const int64_t bytes = graph_attention_scratch_cpu(layer.attention);
    attention_bytes = bytes > attention_bytes ? bytes : attention_bytes;
  };
  for (int32_t half = 0; half < kHalves; ++half) {
    cover(params.first[half]);
    for (const StackLayer& layer : params.joint[half])
      cover(layer);
  }
  s.bytes = taken + attention_bytes;
  return s;
}

template <class T>
T dot(const T* a, const T* b, int32_t count) {
  Vector<T> sum{};
  int32_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>)
    sum += load(a + i) * load(b + i);
  if (i < count)
    sum += load_some(a + i, count - i) * load_some(b + i, count - i);
  return sum_lanes<T>(sum);
}

// Nodes of clips [begin, end): temporal, or spectral with their positions.
template <class Format>
void take_maxima(const GraphStackParams& params,
                 bool temporal,
                 int64_t begin,
                 int64_t end,
                 void* to) {
  using T = Real<Format>;
  const int64_t channels = params.channels;
  const int64_t size = channels * (temporal ? params.steps : params.bands);
  const T* position = static_cast<const T*>(params.position);
  for (int64_t clip = begin; clip < end; ++clip) {
    T* nodes = at<T>(to, clip * size);
    if (temporal)
      largest_of_steps<Format>(params, clip,
                               [&](int64_t c, int64_t t, T magnitude, int32_t) {
                                 nodes[t * channels + c] = magnitude;
                               });
    else
      largest_of_bands<Format>(
          params, clip, [&](int64_t c, int64_t f, T magnitude, int32_t) {
            nodes[f * channels + c] = magnitude + position[f * channels + c];
          });
  }
}

// out = selu(norm(of what is read, and of x)), of `rows` rows from `begin` on.
template <class T>
void mix_rows(const StackLayer& layer,
              int64_t begin,
              int64_t rows,
              const StackScratch<T>& s) {
  const int32_t dim = layer.attention.dim, hidden = layer.attention.hidden;
  const int32_t width = static_cast<int32_t>(padded(hidden));
  const StackMix& mix = layer.mix;
  const auto value = [](const void* array, int32_t o) {
    return static_cast<const T*>(array)[o];
  };
  // Batch normalisation is folded into the weights; the scale lies in rows.
  for (int32_t o = 0; o < width; ++o) {
    s.shift[o] = 0;
    if (o >= hidden)
      continue;
    const T scale =
        value(mix.weight, o) / __builtin_sqrt(value(mix.variance, o) + mix.eps);
    s.rows[o] = scale;
    s.shift[o] = (value(mix.read.bias, o) + value(mix.own.bias, o) -
                  value(mix.mean, o)) *
                     scale +
                 value(mix.bias, o);
  }
  pack_weight<T>(mix.read.weight, dim, hidden, s.rows, s.read_weight);
  pack_weight<T>(mix.own.weight, dim, hidden, s.rows, s.own_weight);
  const T* x = at<T>(layer.attention.x, begin * dim);
  T* out = at<T>(layer.out, begin * hidden);
  for (int64_t row = 0; row < rows; row += kMixRows) {
    const int64_t left = rows - row;
    const int32_t count =
        static_cast<int32_t>(left < kMixRows ? left : kMixRows);
    multiply<T>({count, width, dim, s.read + row * dim, dim, 1, s.read_weight,
                 width, s.shift, 0, s.rows, width});
    multiply<T>({count, width, dim, x + row * dim, dim, 1, s.own_weight, width,
                 s.rows, width, s.rows, width});
    for (int32_t r = 0; r < count; ++r) {
      T* mixed = s.rows + r * width;
      for (int32_t o = 0; o < width; o += kLanes<T>)
        store<T>(mixed + o, selu_of<T>(load(mixed + o)));
      __builtin_memcpy(out + (row + r) * hidden, mixed, hidden * sizeof(T));
    }
  }
}

template <class T>
void mix_master(const StackLayer& layer,
                int64_t begin,
                int64_t end,
                const StackScratch<T>& s) {
  const GraphAttentionParams& attention = layer.attention;
  const int32_t dim = attention.dim, hidden = attention.hidden;
  const auto output = [&](const StackLinear& linear, const T* x, int32_t o) {
    return dot<T>(at<T>(linear.weight, int64_t{o} * dim), x, dim) +
           static_cast<const T*>(linear.bias)[o];
  };
  for (int64_t clip = begin; clip < end; ++clip) {
    const T* summary = s.summary + (clip - begin) * dim;
    const T* own = at<T>(attention.master, clip * attention.master_stride);
    T* out = at<T>(layer.master_out, clip * hidden);
    for (int32_t o = 0; o < hidden; ++o)
      out[o] = output(layer.master_mix.read, summary, o) +
               output(layer.master_mix.own, own, o);
  }
}

// A layer of clips [begin, end), at most s.clips.
template <class T>
void run_layer(const StackLayer& layer,
               int64_t begin,
               int64_t end,
               const StackScratch<T>& s) {
  GraphAttentionParams attention = layer.attention;
  const int64_t nodes = attention.nodes, clips = end - begin;
  attention.batch = clips;
  attention.x = at<T>(attention.x, begin * nodes * attention.dim);
  attention.master = at<T>(attention.master, begin * attention.master_stride);
  attention.attention = s.attention;
  attention.master_attention = s.master_attention;
  attention.out = s.read;
  attention.summary = s.summary;
  graph_attention_scores_cpu(attention, 0, clips * pair_count(attention.nodes),
                             s.of_attention);
  graph_attention_rows_cpu(attention, 0, clips * nodes, s.of_attention);
  mix_rows<T>(layer, begin * nodes, clips * nodes, s);
  if (!has_master(attention))
    return;
  graph_attention_master_cpu(attention, 0, clips, s.of_attention);
  mix_master<T>(layer, begin, end, s);
}

// Pools the nodes of a layer's output from `first` on, of clips [begin, end).
template <class T>
void run_pool(const StackPool& pool,
              const StackLayer& layer,
              int64_t first,
              int64_t begin,
              int64_t end,
              int64_t* room) {
  const int64_t dim = layer.attention.hidden, nodes = layer.attention.nodes;
  for (int64_t clip = begin; clip < end; ++clip) {
    GraphPoolParams params{};
    params.format = layer.attention.format;
    params.batch = 1;
    params.nodes = pool.nodes;
    params.dim = layer.attention.hidden;
    params.kept = pool.kept;
    params.h_stride = nodes * dim;
    params.h = at<T>(layer.out, (clip * nodes + first) * dim);
    params.weight = pool.score.weight;
    params.bias = pool.score.bias;
    params.out = at<T>(pool.out, clip * pool.kept * dim);
    params.scores = pool.scores + clip * pool.kept;
    params.indices = pool.indices + clip * pool.kept;
    graph_pool_cpu(params, 0, 1, room);
  }
}

// Joins what two pools keep, each by a projection of its own, as the nodes of
// a layer.
template <class T>
void join(const StackLayer& layer,
          const StackPool (&pools)[kHalves],
          int64_t begin,
          int64_t end,
          const StackScratch<T>& s) {
  const int32_t dim = layer.attention.dim;
  const int32_t width = static_cast<int32_t>(padded(dim));
  int64_t first = 0;
  for (int32_t type = 0; type < kHalves; ++type) {
    const StackPool& pool = pools[type];
    const StackLinear& linear = layer.types[type];
    pack_weight<T>(linear.weight, dim, dim, nullptr, s.own_weight);
    for (int32_t o = 0; o < width; ++o)
      s.shift[o] = o < dim ? static_cast<const T*>(linear.bias)[o] : 0;
    for (int64_t clip = begin; clip < end; ++clip) {
      const T* from = at<T>(pool.out, clip * pool.kept * dim);
      T* to = at<T>(layer.x, (clip * layer.attention.nodes + first) * dim);
      for (int32_t row = 0; row < pool.kept; row += kMixRows) {
        const int32_t left = pool.kept - row;
        const int32_t count = left < kMixRows ? left : kMixRows;
        multiply<T>({count, width, dim, from + row * dim, dim, 1, s.own_weight,
                     width, s.shift, 0, s.rows, width});
        for (int32_t r = 0; r < count; ++r)
          __builtin_memcpy(to + (row + r) * dim, s.rows + r * width,
                           dim * sizeof(T));
      }
    }
    first += pool.kept;
  }
}

// Calls run(half, first clip, end of clips) for halves of items [begin, end),
// `most` clips at a time.
template <class Run>
void for_each_half(int64_t begin, int64_t end, int64_t most, const Run& run) {
  for (int32_t half = 0; half < kHalves; ++half) {
    const int64_t last = (end + kHalves - 1 - half) / kHalves;
    for (int64_t first = (begin + kHalves - 1 - half) / kHalves; first < last;
         first += most)
      run(half, first, first + most < last ? first + most : last);
  }
}

}  // namespace

int64_t graph_stack_scratch_cpu(const GraphStackParams& params) {
  return is_double(params.format) ? stack_scratch<double>(params, nullptr).bytes
                                  : stack_scratch<float>(params, nullptr).bytes;
}

void graph_stack_first_cpu(const GraphStackParams& params,
                           int64_t begin,
                           int64_t end,
                           void* scratch) {
  with_real(params.format, [&](auto format) {
    using Format = decltype(format);
    using T = Real<Format>;
    const StackScratch<T> s = stack_scratch<T>(params, scratch);
    for_each_half(
        begin, end, s.clips, [&](int32_t type, int64_t first, int64_t last) {
          const StackLayer& layer = params.first[type];
          take_maxima<Format>(params, type == 0, first, last, layer.x);
          run_layer<T>(layer, first, last, s);
          run_pool<T>(params.first_pools[type], layer, 0, first, last, s.pool);
        });
  });
}

void graph_stack_branch_cpu(const GraphStackParams& params,
                            int64_t begin,
                            int64_t end,
                            void* scratch) {
  with_real(params.format, [&](auto format) {
    using T = Real<decltype(format)>;
    const StackScratch<T> s = stack_scratch<T>(params, scratch);
    for_each_half(
        begin, end, s.clips, [&](int32_t branch, int64_t first, int64_t last) {
          const StackLayer(&joint)[kDepths] = params.joint[branch];
          const StackPool(&pools)[kHalves] = params.pools[branch];
          join<T>(joint[0], params.first_pools, first, last, s);
          run_layer<T>(joint[0], first, last, s);
          run_pool<T>(pools[0], joint[0], 0, first, last, s.pool);
          run_pool<T>(pools[1], joint[0], pools[0].nodes, first, last, s.pool);
          join<T>(joint[1], pools, first, last, s);
          run_layer<T>(joint[1], first, last, s);
        });
  });
}

void graph_stack_readout_cpu(const GraphStackParams& params,
                             int64_t begin,
                             int64_t end) {
  with_real(params.format, [&](auto format) {
    using T = Real<decltype(format)>;
    int32_t largest[kHalves * kMaxWidth];  // not wanted
    for (int64_t clip = begin; clip < end; ++clip)
      read_out<T>(
          params, clip,
          [&](int32_t type, int32_t i) {
            return sums_of_node<T>(params, clip, type, i);
          },
          sums_of_master<T>(params, clip), largest);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
