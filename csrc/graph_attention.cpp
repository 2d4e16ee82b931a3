// graph_attention: schemas, checks, allocation and registration.
#include "graph_attention.h"

#include <cmath>
#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "graph_passes_cpu.h"
#include "task_scratch.h"
#include "tensor_rows.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "graph_attention";

ScalarType real_type(FloatFormat format) {
  return is_double(format) ? ScalarType::Double : ScalarType::Float;
}

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  int64_t partials(const GraphAttentionParams& params) const {
    return graph_attention_partials_cpu(params);
  }

  void run(const GraphAttentionParams& params) const {
    GraphPassesCpu(TorchThreads()).attend(params);
  }
  void run(const GraphAttentionBackwardParams& params) const {
    GraphPassesCpu(TorchThreads()).attend_backward(params);
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  int64_t partials(const GraphAttentionParams& params) const {
    return graph_attention_partials_cuda(params);
  }
  void run(const GraphAttentionParams& params) const {
    check_launch(graph_attention_cuda(params, stream()), kName);
  }
  void run(const GraphAttentionBackwardParams& params) const {
    check_launch(graph_attention_backward_cuda(params, stream()), kName);
  }
};
#endif

// Pointers to the rows of vectors (types, hidden), whose data is at `data`.
template <class Byte, class Pointer>
void point_to_rows(const Tensor& vectors,
                   Byte* data,
                   Pointer (&rows)[kMostTypes]) {
  const int64_t bytes = vectors.size(1) * vectors.element_size();
  for (int64_t type = 0; type < vectors.size(0) && type < kMostTypes; ++type)
    rows[type] = data + type * bytes;
}

GraphScoreGradient gradient_of(const Tensor& dweight,
                               const Tensor& dbias,
                               const Tensor& dvectors) {
  GraphScoreGradient gradient{
      dweight.mutable_data_ptr(), dbias.mutable_data_ptr(), {}};
  if (dvectors.dim() == 2)  // else there is no master
    point_to_rows(dvectors, static_cast<char*>(dvectors.mutable_data_ptr()),
                  gradient.vectors);
  return gradient;
}

// A score's tensors, made contiguous, which they have to outlive.
struct Score {
  Tensor weight, bias, vectors;

  Score(const Tensor& weight,
        const Tensor& bias,
        const Tensor& vectors,
        const Tensor& x,
        const char* name)
      : weight(packed(weight)), bias(packed(bias)), vectors(packed(vectors)) {
    STD_TORCH_CHECK(weight.dim() == 2 && vectors.dim() == 2 &&
                        fits(weight, x, {weight.size(0), last_size(x)}) &&
                        fits(bias, x, {weight.size(0)}) &&
                        fits(vectors, x, {vectors.size(0), weight.size(0)}),
                    kName, ": weight, bias and vectors of the ", name,
                    " must be (hidden, ", last_size(x),
                    "), (hidden) and (types, hidden), of the dtype and device "
                    "of x");
  }

  GraphScore params() const {
    GraphScore score{weight.const_data_ptr(), bias.const_data_ptr(), {}};
    point_to_rows(vectors, static_cast<const char*>(vectors.const_data_ptr()),
                  score.vectors);
    return score;
  }
};

// What a call is given, checked and contiguous.
struct Inputs {
  Tensor x;
  Score pairs;
  std::optional<Tensor> master;
  std::optional<Score> master_score;
  GraphAttentionParams params;
};

Inputs check(const Tensor& x,
             const Tensor& weight,
             const Tensor& bias,
             const Tensor& vectors,
             int64_t num_type1,
             double temperature,
             const std::optional<Tensor>& master,
             const std::optional<Tensor>& master_weight,
             const std::optional<Tensor>& master_bias,
             const std::optional<Tensor>& master_vector) {
  STD_TORCH_CHECK(x.dim() == 3, kName, ": x must be (batch, nodes, dim)");
  const int64_t batch = x.size(0), nodes = x.size(1), dim = x.size(2);
  Inputs in{packed(x), Score(weight, bias, vectors, x, "pairs"), {}, {}, {}};
  const int64_t hidden = weight.size(0), types = vectors.size(0);
  STD_TORCH_CHECK(nodes >= 1 && nodes <= kMaxNodes && dim >= 1 &&
                      dim <= kMaxWidth && hidden >= 1 && hidden <= kMaxWidth,
                  kName, ": nodes must be in 1..", kMaxNodes,
                  ", dim and hidden in 1..", kMaxWidth);
  STD_TORCH_CHECK(num_type1 >= 0 && num_type1 <= nodes &&
                      (types == 3 || (types == 1 && num_type1 == nodes)),
                  kName, ": num_type1 must be in 0..", nodes,
                  ", with 3 vectors, or ", nodes, " with 1");
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature > 0, kName,
                  ": temperature must be positive");
  GraphAttentionParams& params = in.params;
  params.format = format_of(x, kName);
  params.batch = batch;
  params.nodes = static_cast<int32_t>(nodes);
  params.dim = static_cast<int32_t>(dim);
  params.hidden = static_cast<int32_t>(hidden);
  params.num_type1 = static_cast<int32_t>(num_type1);
  params.types = static_cast<int32_t>(types);
  params.temperature = temperature;
  params.x = in.x.const_data_ptr();
  params.pairs = in.pairs.params();
  if (!master.has_value())
    return in;
  STD_TORCH_CHECK(master_weight.has_value() && master_bias.has_value() &&
                      master_vector.has_value(),
                  kName, ": a master needs weights of its own");
  STD_TORCH_CHECK(
      fits(*master, x, {batch, 1, dim}) || fits(*master, x, {1, 1, dim}), kName,
      ": master must be (batch or 1, 1, ", dim,
      "), of the dtype and device of x");
  in.master = packed(*master);
  in.master_score.emplace(*master_weight, *master_bias, *master_vector, x,
                          "master");
  STD_TORCH_CHECK(in.master_score->weight.size(0) == hidden &&
                      in.master_score->vectors.size(0) == 1,
                  kName,
                  ": the master's weights must be as wide as the pairs',"
                  " with one vector");
  params.master = in.master->const_data_ptr();
  params.master_stride = master->size(0) == batch ? dim : 0;
  params.master_score = in.master_score->params();
  return in;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
    Tensor x,
    Tensor weight,
    Tensor bias,
    Tensor vectors,
    int64_t num_type1,
    double temperature,
    std::optional<Tensor> master,
    std::optional<Tensor> master_weight,
    std::optional<Tensor> master_bias,
    std::optional<Tensor> master_vector) {
  const Device device(x);
  Inputs in = check(x, weight, bias, vectors, num_type1, temperature, master,
                    master_weight, master_bias, master_vector);
  GraphAttentionParams& params = in.params;
  const int64_t batch = params.batch, nodes = params.nodes, dim = params.dim;
  const int64_t masters = master.has_value() ? batch : 0;
  const ScalarType real = real_type(params.format), dtype = x.scalar_type();
  Tensor out = new_tensor(x, {batch, nodes, dim}, dtype);
  Tensor attention = new_tensor(x, {batch, nodes, nodes}, real);
  Tensor summary = new_tensor(x, {masters, 1, dim}, dtype);
  Tensor master_attention = new_tensor(x, {masters, nodes}, real);
  params.out = out.mutable_data_ptr();
  params.attention = attention.mutable_data_ptr();
  params.summary = summary.mutable_data_ptr();
  params.master_attention = master_attention.mutable_data_ptr();
  device.run(params);
  return {out, attention, summary, master_attention};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
backward(Tensor grad_out,
         Tensor grad_summary,
         Tensor attention,
         Tensor master_attention,
         Tensor x,
         Tensor weight,
         Tensor bias,
         Tensor vectors,
         int64_t num_type1,
         double temperature,
         std::optional<Tensor> master,
         std::optional<Tensor> master_weight,
         std::optional<Tensor> master_bias,
         std::optional<Tensor> master_vector) {
  const Device device(x);
  Inputs in = check(x, weight, bias, vectors, num_type1, temperature, master,
                    master_weight, master_bias, master_vector);
  GraphAttentionBackwardParams params{};
  params.forward = in.params;
  const int64_t batch = in.params.batch, nodes = in.params.nodes;
  const int64_t dim = in.params.dim;
  const int64_t masters = master.has_value() ? batch : 0;
  const ScalarType real = real_type(in.params.format), dtype = x.scalar_type();
  const auto saved = [&](const Tensor& tensor, std::vector<int64_t> sizes) {
    return sizes_of(tensor) == sizes && tensor.scalar_type() == real &&
           tensor.is_contiguous() && tensor.device() == x.device();
  };
  STD_TORCH_CHECK(saved(attention, {batch, nodes, nodes}) &&
                      saved(master_attention, {masters, nodes}) &&
                      fits(grad_out, x, {batch, nodes, dim}) &&
                      fits(grad_summary, x, {masters, 1, dim}),
                  kName, ": the gradients or the attention do not fit x");
  grad_out = packed(grad_out);
  grad_summary = packed(grad_summary);
  const auto like = [&](const std::optional<Tensor>& tensor) {
    return new_tensor(
        x, tensor.has_value() ? sizes_of(*tensor) : std::vector<int64_t>{0},
        dtype);
  };
  Tensor dx = like(x), dweight = like(weight), dbias = like(bias);
  Tensor dvectors = like(vectors);
  Tensor dmaster = new_tensor(x, {masters, 1, dim}, dtype);
  Tensor dmaster_weight = like(master_weight);
  Tensor dmaster_bias = like(master_bias);
  Tensor dmaster_vector = like(master_vector);
  Tensor score_gradients = new_tensor(x, {batch, nodes, nodes}, real);
  Tensor partials = new_tensor(x, {device.partials(in.params)}, real);
  params.forward.attention = attention.mutable_data_ptr();
  params.forward.master_attention = master_attention.mutable_data_ptr();
  params.grad_out = grad_out.const_data_ptr();
  params.grad_summary = grad_summary.const_data_ptr();
  params.dx = dx.mutable_data_ptr();
  params.dmaster = dmaster.mutable_data_ptr();
  params.pairs = gradient_of(dweight, dbias, dvectors);
  params.master_score =
      gradient_of(dmaster_weight, dmaster_bias, dmaster_vector);
  params.score_gradients = score_gradients.mutable_data_ptr();
  params.partials = partials.mutable_data_ptr();
  device.run(params);
  return {dx,      dweight,        dbias,        dvectors,
          dmaster, dmaster_weight, dmaster_bias, dmaster_vector};
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "graph_attention(Tensor x, Tensor weight, Tensor bias, Tensor vectors, "
      "SymInt num_type1, float temperature, Tensor? master, Tensor? "
      "master_weight, Tensor? master_bias, Tensor? master_vector) -> "
      "(Tensor out, Tensor attention, Tensor summary, Tensor "
      "master_attention)");
  m.def(
      "graph_attention_backward(Tensor grad_out, Tensor grad_summary, Tensor "
      "attention, Tensor master_attention, Tensor x, Tensor weight, Tensor "
      "bias, Tensor vectors, SymInt num_type1, float temperature, Tensor? "
      "master, "
      "Tensor? master_weight, Tensor? master_bias, Tensor? master_vector) "
      "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dvectors, Tensor "
      "dmaster, Tensor dmaster_weight, Tensor dmaster_bias, Tensor "
      "dmaster_vector)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("graph_attention", TORCH_BOX(&forward<Cpu>));
  m.impl("graph_attention_backward", TORCH_BOX(&backward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("graph_attention", TORCH_BOX(&forward<Cuda>));
  m.impl("graph_attention_backward", TORCH_BOX(&backward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
