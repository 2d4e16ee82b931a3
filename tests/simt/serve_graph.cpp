// The kernels of graph_attention and graph_pool, device and CPU code, for
// tests/graph_implementations.py.
#include <memory>

#include "graph_attention.h"
#include "graph_pool.h"
#include "graph_stack.h"
#include "where.h"

namespace sparse_aasist::simt {
namespace {

GraphScore score(const Call& call, size_t first, int64_t types) {
  GraphScore score{call.array(first), call.array(first + 1), {}};
  const size_t bytes = call.arrays.at(first + 2)->bytes() / types;
  for (int64_t type = 0; type < types; ++type)
    score.vectors[type] = call.array<char>(first + 2) + type * bytes;
  return score;
}

// Scalars: where, schedule, format, batch, nodes, dim, hidden, num_type1,
// types, whether there is a master, whether it is shared, the bits of the
// temperature. Arrays: x, weight, bias, vectors, master and its weight, bias
// and vector.
GraphAttentionParams attention(const Call& call) {
  GraphAttentionParams params{};
  params.format = static_cast<FloatFormat>(call.scalars.at(2));
  params.batch = call.scalars.at(3);
  params.nodes = static_cast<int32_t>(call.scalars.at(4));
  params.dim = static_cast<int32_t>(call.scalars.at(5));
  params.hidden = static_cast<int32_t>(call.scalars.at(6));
  params.num_type1 = static_cast<int32_t>(call.scalars.at(7));
  params.types = static_cast<int32_t>(call.scalars.at(8));
  params.temperature = bit_cast<double>(call.scalars.at(11));
  params.x = call.array(0);
  params.pairs = score(call, 1, params.types);
  if (call.scalars.at(9) != 0) {
    params.master = call.array(4);
    params.master_stride = call.scalars.at(10) != 0 ? 0 : params.dim;
    params.master_score = score(call, 5, 1);
  }
  return params;
}

// Calls kernel(begin, end) for [0, count) in two parts, as two threads would.
template <class Kernel>
void in_parts(int64_t count, const Kernel& kernel) {
  if (count > 1)
    kernel(int64_t{0}, count / 2);
  if (count > 0)
    kernel(count / 2, count);
}

// Arrays behind the inputs: out, summary, attention, master_attention.
const char* run_attention(const Call& call) {
  const int64_t where = begin(call);
  GraphAttentionParams params = attention(call);
  params.out = call.array(8);
  params.summary = call.array(9);
  params.attention = call.array(10);
  params.master_attention = call.array(11);
  if (where == kOnDevice)
    return graph_attention_cuda(params, nullptr);
  const auto scores = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_scores_cpu);
  const auto rows = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_rows_cpu);
  const auto master = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_master_cpu);
  const int64_t bytes =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_scratch_cpu)(params);
  in_parts(params.batch * pair_count(params.nodes),
           [&](int64_t first, int64_t end) {
             scores(params, first, end, Room(bytes).data());
           });
  in_parts(params.batch * params.nodes, [&](int64_t first, int64_t end) {
    rows(params, first, end, Room(bytes).data());
  });
  if (has_master(params))
    in_parts(params.batch, [&](int64_t first, int64_t end) {
      master(params, first, end, Room(bytes).data());
    });
  return nullptr;
}

// Arrays behind the inputs: attention, master_attention, grad_out,
// grad_summary, then the gradients of the inputs.
const char* run_attention_backward(const Call& call) {
  const int64_t where = begin(call);
  GraphAttentionBackwardParams params{};
  params.forward = attention(call);
  GraphAttentionParams& forward = params.forward;
  forward.attention = call.array(8);
  forward.master_attention = call.array(9);
  params.grad_out = call.array(10);
  params.grad_summary = call.array(11);
  params.dx = call.array(12);
  params.pairs = {call.array(13), call.array(14), call.array(15)};
  params.dmaster = call.array(16);
  params.master_score = {call.array(17), call.array(18), call.array(19)};
  const int64_t real =
      is_double(forward.format) ? sizeof(double) : sizeof(float);
  const GraphTasks tasks = graph_tasks(forward.batch, forward.nodes);
  const int64_t shared_nodes = tasks.parts > 1 ? forward.nodes : 0;
  const Room score_gradients(real * forward.batch * forward.nodes *
                             forward.nodes);
  const Room partials(real * (where == kOnDevice
                                  ? graph_attention_partials_cuda(forward)
                                  : graph_attention_partials_cpu(forward)));
  params.score_gradients = score_gradients.data();
  params.partials = partials.data();
  if (where == kOnDevice)
    return graph_attention_backward_cuda(params, nullptr);
  const auto rows =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_rows_cpu);
  const auto run_tasks =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_tasks_cpu);
  const auto sum =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_sum_cpu);
  const int64_t bytes =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_scratch_cpu)(forward);
  in_parts(forward.batch * forward.nodes, [&](int64_t first, int64_t end) {
    rows(params, first, end, Room(bytes).data());
  });
  in_parts(tasks.count, [&](int64_t first, int64_t end) {
    run_tasks(params, first, end, Room(bytes).data());
  });
  in_parts(layer_size(forward) + forward.batch * shared_nodes * forward.dim,
           [&](int64_t first, int64_t end) { sum(params, first, end); });
  return nullptr;
}

// Scalars: where, schedule, format, batch, nodes, dim, kept.
// Arrays: h, weight, bias, scale.
GraphPoolParams pool(const Call& call) {
  GraphPoolParams params{};
  params.format = static_cast<FloatFormat>(call.scalars.at(2));
  params.batch = call.scalars.at(3);
  params.nodes = static_cast<int32_t>(call.scalars.at(4));
  params.dim = static_cast<int32_t>(call.scalars.at(5));
  params.kept = static_cast<int32_t>(call.scalars.at(6));
  params.h = call.array(0);
  params.weight = call.array(1);
  params.bias = call.array(2);
  params.scale = call.array_or_null(3);
  return params;
}

// Arrays behind the inputs: out, scores, indices.
const char* run_pool(const Call& call) {
  const int64_t where = begin(call);
  GraphPoolParams params = pool(call);
  params.out = call.array(4);
  params.scores = call.array<double>(5);
  params.indices = call.array<int32_t>(6);
  if (where == kOnDevice)
    return graph_pool_cuda(params, nullptr);
  const Room room(2 * params.nodes * int64_t{sizeof(int64_t)});
  SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_cpu)
  (params, 0, params.batch, static_cast<int64_t*>(room.data()));
  return nullptr;
}

// Arrays behind the inputs: scores, indices, grad_out, dh, dweight, dbias.
const char* run_pool_backward(const Call& call) {
  const int64_t where = begin(call);
  GraphPoolBackwardParams params{};
  params.forward = pool(call);
  params.forward.scores = call.array<double>(4);
  params.forward.indices = call.array<int32_t>(5);
  params.grad_out = call.array(6);
  params.dh = call.array(7);
  params.dweight = call.array(8);
  params.dbias = call.array(9);
  const Room partials(params.forward.batch * (params.forward.dim + 1) *
                      int64_t{sizeof(double)});
  params.partials = static_cast<double*>(partials.data());
  if (where == kOnDevice)
    return graph_pool_backward_cuda(params, nullptr);
  SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_backward_cpu)
  (params, 0, params.forward.batch);
  SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_backward_sum_cpu)(params);
  return nullptr;
}

// Scalars: where, schedule, format, batch, channels, bands, steps, dim, hidden,
// kept nodes, the bits of temperatures and eps. Arrays: features, weights,
// readout, how many kernels were launched.
const char* run_stack(const Call& call) {
  const int64_t where = begin(call);
  size_t scalar = 2, array = 1;
  const auto next_scalar = [&] {
    return static_cast<int32_t>(call.scalars.at(scalar++));
  };
  GraphStackSizes sizes{};
  sizes.format = static_cast<FloatFormat>(next_scalar());
  sizes.batch = next_scalar();
  for (int32_t* size : {&sizes.channels, &sizes.bands, &sizes.steps, &sizes.dim,
                        &sizes.hidden, &sizes.first_kept[0],
                        &sizes.first_kept[1], &sizes.kept[0], &sizes.kept[1]})
    *size = next_scalar();
  for (double& temperature : sizes.temperatures)
    temperature = bit_cast<double>(call.scalars.at(scalar++));
  for (double& eps : sizes.eps)
    eps = bit_cast<double>(call.scalars.at(scalar++));
  if (const char* reason = refusal(sizes))
    return reason;
  const size_t real = is_double(sizes.format) ? sizeof(double) : sizeof(float);
  bool fit = true;
  const auto next = [&](std::initializer_list<int64_t> expected) {
    size_t bytes = real;
    for (const int64_t size : expected)
      bytes *= static_cast<size_t>(size);
    fit = fit && call.arrays.at(array)->bytes() == bytes;
    return call.array<const void>(array++);
  };
  GraphStackParams params = StackWeights(sizes, next).read();
  if (!fit)
    return "a weight has another size";
  params.features = call.array(0);
  params.readout = call.array(array);
  const bool on_device = where == kOnDevice;
  const Room room(place_stack(params, nullptr));
  place_stack(params, room.data());
  if (on_device) {
    const int64_t before = launch_count();
    const char* error = graph_stack_cuda(params, nullptr);
    *call.array<int64_t>(array + 1) = launch_count() - before;
    return error;
  }
  const auto first = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_first_cpu);
  const auto branch = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_branch_cpu);
  const auto read_out = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_readout_cpu);
  const int64_t bytes =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_scratch_cpu)(params);
  for (const auto& kernel : {first, branch})
    in_parts(params.batch * kHalves, [&](int64_t begin, int64_t end) {
      kernel(params, begin, end, Room(bytes).data());
    });
  in_parts(params.batch,
           [&](int64_t begin, int64_t end) { read_out(params, begin, end); });
  return nullptr;
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"graph_attention", run_attention},
                {"graph_attention_backward", run_attention_backward},
                {"graph_pool", run_pool},
                {"graph_pool_backward", run_pool_backward},
                {"graph_stack", run_stack}});
}
