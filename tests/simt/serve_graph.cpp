// The kernels of graph_attention and graph_pool, device and CPU code, for
// tests/graph_implementations.py.
#include <initializer_list>

#include "graph_passes_cpu.h"
#include "graph_stack_backward_order.h"
#include "graph_stack_order.h"
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

GraphScoreGradient score_gradient(const Call& call,
                                  size_t first,
                                  int64_t types) {
  GraphScoreGradient gradient{call.array(first), call.array(first + 1), {}};
  const size_t bytes = call.arrays.at(first + 2)->bytes() / types;
  for (int64_t type = 0; type < types; ++type)
    gradient.vectors[type] = call.array<char>(first + 2) + type * bytes;
  return gradient;
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

// Two parts of each pass, one behind the other, as two threads would.
struct TwoParts {
  template <class Run>
  void operator()(int64_t count,
                  int64_t,
                  int64_t scratch_bytes,
                  const Run& run) const {
    if (count > 1)
      run(0, count / 2, Room(scratch_bytes).data());
    if (count > 0)
      run(count / 2, count, Room(scratch_bytes).data());
  }
};

const GraphPassesCpu passes{TwoParts()};

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
  passes.attend(params);
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
  params.pairs = score_gradient(call, 13, forward.types);
  params.dmaster = call.array(16);
  params.master_score = score_gradient(call, 17, 1);
  const int64_t real =
      is_double(forward.format) ? sizeof(double) : sizeof(float);
  const Room score_gradients(real * forward.batch * forward.nodes *
                             forward.nodes);
  const Room partials(real * (where == kOnDevice
                                  ? graph_attention_partials_cuda(forward)
                                  : graph_attention_partials_cpu(forward)));
  params.score_gradients = score_gradients.data();
  params.partials = partials.data();
  if (where == kOnDevice)
    return graph_attention_backward_cuda(params, nullptr);
  passes.attend_backward(params);
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
  params.h_stride = int64_t{params.nodes} * params.dim;
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
  passes.pool(params);
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
  passes.pool_backward(params);
  return nullptr;
}

// A call of graph_stack or of its training. Scalars: where, schedule, format,
// batch, channels, bands, steps, dim, hidden, kept nodes, the bits of
// temperatures and eps. Arrays: features, weights, and what follows.
class StackCall {
 public:
  StackCall(const Call& call, bool of_batch) : call_(call) {
    size_t scalar = 2;
    const auto next = [&] {
      return static_cast<int32_t>(call.scalars.at(scalar++));
    };
    sizes_.format = static_cast<FloatFormat>(next());
    sizes_.batch = next();
    for (int32_t* size :
         {&sizes_.channels, &sizes_.bands, &sizes_.steps, &sizes_.dim,
          &sizes_.hidden, &sizes_.first_kept[0], &sizes_.first_kept[1],
          &sizes_.kept[0], &sizes_.kept[1]})
      *size = next();
    for (double& temperature : sizes_.temperatures)
      temperature = bit_cast<double>(call.scalars.at(scalar++));
    for (double& eps : sizes_.eps)
      eps = bit_cast<double>(call.scalars.at(scalar++));
    sizes_.of_batch = of_batch;
  }

  const GraphStackSizes& sizes() const { return sizes_; }

  // The next array, if it has these sizes.
  void* next(std::initializer_list<int64_t> expected) {
    size_t bytes = is_double(sizes_.format) ? sizeof(double) : sizeof(float);
    for (const int64_t size : expected)
      bytes *= static_cast<size_t>(size);
    fit_ = fit_ && call_.arrays.at(array_)->bytes() == bytes;
    return call_.array(array_++);
  }

  void* next() { return call_.array(array_++); }

  // Weights, or what is written in their places.
  GraphStackParams read() {
    const auto next = [&](std::initializer_list<int64_t> expected) {
      return static_cast<const void*>(this->next(expected));
    };
    return StackWeights(sizes_, next).read();
  }

  bool fit() const { return fit_; }

 private:
  const Call& call_;
  GraphStackSizes sizes_{};
  size_t array_ = 0;
  bool fit_ = true;
};

// Behind the weights: readout, how many kernels were launched.
const char* run_stack(const Call& call) {
  const int64_t where = begin(call);
  StackCall stack(call, false);
  if (const char* reason = refusal(stack.sizes()))
    return reason;
  const void* features = stack.next();
  GraphStackParams params = stack.read();
  if (!stack.fit())
    return "a weight has another size";
  params.features = features;
  params.readout = stack.next();
  const Room room(place_stack(params, nullptr));
  place_stack(params, room.data());
  if (where == kOnDevice) {
    const int64_t before = launch_count();
    const char* error = graph_stack_cuda(params, nullptr);
    *static_cast<int64_t*>(stack.next()) = launch_count() - before;
    return error;
  }
  const auto first = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_first_cpu);
  const auto branch = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_branch_cpu);
  const auto read_out = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_readout_cpu);
  const int64_t bytes =
      SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_scratch_cpu)(params);
  const TwoParts threads;
  for (const auto& kernel : {first, branch})
    threads(params.batch * kHalves, 1, bytes,
            [&](int64_t begin, int64_t end, void* scratch) {
              kernel(params, begin, end, scratch);
            });
  threads(params.batch, 1, 0, [&](int64_t begin, int64_t end, void*) {
    read_out(params, begin, end);
  });
  return nullptr;
}

// Behind the weights: noise, readout, means and variances of all layers, the
// gradient of the readout, those of features and weights, how many kernels were
// launched forward and backward.
const char* run_stack_training(const Call& call) {
  const int64_t where = begin(call);
  StackCall stack(call, true);
  if (const char* reason = refusal(stack.sizes()))
    return reason;
  GraphStackTrainingParams forward{};
  const void* features = stack.next();
  forward.stack = stack.read();
  forward.stack.features = features;
  for (const void*& noise : forward.of_layers)
    noise = stack.next();
  for (const void*& noise : forward.of_pools)
    noise = stack.next();
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    for (const void*& noise : forward.of_branches[branch])
      noise = stack.next();
    forward.of_masters[branch] = stack.next();
  }
  forward.stack.readout = stack.next();
  for (void*& mean : forward.means)
    mean = stack.next();
  for (void*& variance : forward.variances)
    variance = stack.next();
  const Room saved(place_training(forward, nullptr));
  place_training(forward, saved.data());
  GraphStackBackwardParams backward{};
  backward.forward = forward;
  backward.grad_readout = stack.next();
  backward.dfeatures = stack.next();
  backward.gradients = stack.read();
  if (!stack.fit())
    return "a weight or its gradient has another size";
  const bool on_device = where == kOnDevice;
  const auto partials =
      on_device ? graph_attention_partials_cuda : graph_attention_partials_cpu;
  const Room room(place_backward(backward, partials, nullptr));
  place_backward(backward, partials, room.data());
  if (!on_device) {
    graph_stack_training(forward, passes);
    graph_stack_training_backward(backward, passes);
    return nullptr;
  }
  int64_t* const launches = static_cast<int64_t*>(stack.next());
  const int64_t before = launch_count();
  const char* error = graph_stack_training_cuda(forward, nullptr);
  launches[0] = launch_count() - before;
  if (error == nullptr)
    error = graph_stack_training_backward_cuda(backward, nullptr);
  launches[1] = launch_count() - before - launches[0];
  return error;
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"graph_attention", run_attention},
                {"graph_attention_backward", run_attention_backward},
                {"graph_pool", run_pool},
                {"graph_pool_backward", run_pool_backward},
                {"graph_stack", run_stack},
                {"graph_stack_training", run_stack_training}});
}
