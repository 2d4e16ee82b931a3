// graph_pool: the nodes with the highest scores, scaled by them, best first.
// Parameters and launchers, free of torch.
//
//   score_i = sigmoid(w . (h_i * scale_i) + b)
//   out_r = h_i * score_i for the node i of rank r, r < kept
//
// Scores are computed in float64 and rounded to the format before they are
// ranked: the highest first, NaN above all, the lowest index first among
// equals.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kMaxPoolNodes = 4096;

// All tensors are contiguous, but clips of h and dh lie h_stride entries apart,
// and have the format.
struct GraphPoolParams {
  FloatFormat format;
  int64_t batch;
  int32_t nodes;
  int32_t dim;
  int32_t kept;        // 1..nodes
  int64_t h_stride;    // nodes * dim or more
  const void* h;       // (batch, nodes, dim)
  const void* weight;  // (dim)
  const void* bias;    // (1)
  const void* scale;   // (batch, nodes, dim), the noise of dropout; or null
  void* out;           // (batch, kept, dim)
  double* scores;      // (batch, kept), before they are rounded
  int32_t* indices;    // (batch, kept), of nodes
};

struct GraphPoolBackwardParams {
  GraphPoolParams forward;  // out is not read, bias neither
  const void* grad_out;     // (batch, kept, dim)
  void* dh;                 // (batch, nodes, dim)
  void* dweight;            // (dim)
  void* dbias;              // (1)
  double* partials;         // (batch, dim + 1), sums of weight and bias
};

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Clips [begin, end); `room` is for 2 * nodes int64.
    void graph_pool_cpu(const GraphPoolParams& params,
                        int64_t begin,
                        int64_t end,
                        int64_t* room);
    // dh and partials of clips [begin, end).
    void graph_pool_backward_cpu(const GraphPoolBackwardParams& params,
                                 int64_t begin,
                                 int64_t end);
    // Adds up the partials.
    void graph_pool_backward_sum_cpu(const GraphPoolBackwardParams& params);)

const char* graph_pool_cuda(const GraphPoolParams& params, void* stream);
const char* graph_pool_backward_cuda(const GraphPoolBackwardParams& params,
                                     void* stream);

}  // namespace sparse_aasist
