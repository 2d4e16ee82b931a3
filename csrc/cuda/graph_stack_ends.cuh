// The first and the last stage of graph_stack: its nodes and its readout, with
// or without what training adds to them.
#pragma once

#include <cmath>
#include <cstdint>

#include "graph_stack.h"
#include "row_access.cuh"
#include "row_batches.cuh"

namespace sparse_aasist {

constexpr int32_t kNodeThreads = 256;
constexpr int32_t kNodeWarps = kNodeThreads / 32;

struct StackNodes {
  int64_t batch;
  int32_t channels;
  int32_t bands;
  int32_t steps;
  const void* features;  // (batch, channels, bands, steps)
  const void* position;  // (bands, channels)
  // Temporal, then spectral.
  void* x[kHalves];            // (batch, nodes, channels)
  const void* noise[kHalves];  // as x; or null
  int32_t* indices[kHalves];   // (batch, channels, nodes); or null
};

inline StackNodes stack_nodes(const GraphStackParams& params) {
  return {params.batch,
          params.channels,
          params.bands,
          params.steps,
          params.features,
          params.position,
          {params.first[0].x, params.first[1].x},
          {},
          {}};
}

// For a warp per channel of a clip.
inline unsigned node_blocks(const StackNodes& nodes) {
  return blocks_for((nodes.batch * nodes.channels + kNodeWarps - 1) /
                    kNodeWarps);
}

// Calls run(i) for every channel i of all clips, with a warp.
template <class Run>
__device__ __forceinline__ void for_each_channel(const StackNodes& nodes,
                                                 const Run& run) {
  for (int64_t i = int64_t{blockIdx.x} * kNodeWarps + threadIdx.x / 32;
       i < nodes.batch * nodes.channels; i += int64_t{gridDim.x} * kNodeWarps)
    run(i);
}

// Where a node of channel i lies in x.
__device__ __forceinline__ int64_t node_entry(const StackNodes& nodes,
                                              int32_t half,
                                              int64_t i,
                                              int32_t node) {
  const int64_t clip = i / nodes.channels, channel = i % nodes.channels;
  const int32_t count = half == 0 ? nodes.steps : nodes.bands;
  return (clip * count + node) * nodes.channels + channel;
}

// The first of the largest.
struct Largest {
  int32_t magnitude = 0;
  int32_t index = 0;

  __device__ __forceinline__ void include(int32_t other, int32_t at) {
    if (other > magnitude) {
      magnitude = other;
      index = at;
    }
  }
};

__device__ __forceinline__ void write_node(const StackNodes& nodes,
                                           int32_t half,
                                           int64_t i,
                                           int32_t node,
                                           const Largest& largest) {
  const int64_t entry = node_entry(nodes, half, i, node);
  float value = bit_cast<float>(largest.magnitude);
  if (half == 1)
    value += value_at(nodes.position,
                      int64_t{node} * nodes.channels + i % nodes.channels);
  if (nodes.noise[half] != nullptr)
    value *= value_at(nodes.noise[half], entry);
  *at<float>(nodes.x[half], entry) = value;
  const int32_t count = half == 0 ? nodes.steps : nodes.bands;
  if (nodes.indices[half] != nullptr)
    nodes.indices[half][i * count + node] = largest.index;
}

// The warp's channel i. As integers, magnitudes are in the order of their
// values; all NaN are one, above all.
__device__ __forceinline__ void take_nodes(const StackNodes& nodes, int64_t i) {
  constexpr int32_t kNan = Float32::kInfinity + 1;
  const int32_t lane = threadIdx.x % 32;
  const int32_t bands = nodes.bands, steps = nodes.steps;
  const int32_t* plane =
      at<int32_t>(nodes.features, i * bands * int64_t{steps});
  const auto magnitude = [&](int32_t band, int32_t step) {
    const int32_t bits = plane[int64_t{band} * steps + step] & 0x7fffffff;
    return bits < kNan ? bits : kNan;
  };
  for (int32_t t = lane; t < steps; t += 32) {
    Largest largest;
    for (int32_t f = 0; f < bands; ++f)
      largest.include(magnitude(f, t), f);
    write_node(nodes, 0, i, t, largest);
  }
  for (int32_t f = 0; f < bands; ++f) {
    Largest largest;
    for (int32_t t = lane; t < steps; t += 32)
      largest.include(magnitude(f, t), t);
    const int32_t most = __reduce_max_sync(kAllLanes, largest.magnitude);
    if (nodes.indices[1] != nullptr)
      largest.index = __reduce_min_sync(
          kAllLanes, largest.magnitude == most ? largest.index : steps);
    largest.magnitude = most;
    if (lane == 0)
      write_node(nodes, 1, i, f, largest);
  }
}

// What the readout is of.
struct StackReadout {
  int64_t batch;
  int32_t hidden;
  int32_t kept[kHalves];
  struct {
    const void* pooled[kHalves];  // (batch, kept, hidden), of a type
    const void* last;             // (batch, all kept, hidden)
    const void* masters[kDepths];
    const void* noise[kHalves];  // as pooled; or null
    const void* master_noise;    // as a master; or null
  } branches[kHalves];
};

inline StackReadout stack_readout(const GraphStackParams& params) {
  StackReadout from{};
  from.batch = params.batch;
  from.hidden = params.joint[0][0].attention.hidden;
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    auto& to = from.branches[branch];
    to.last = params.joint[branch][1].out;
    for (int32_t depth = 0; depth < kDepths; ++depth)
      to.masters[depth] = params.joint[branch][depth].master_out;
    for (int32_t type = 0; type < kHalves; ++type) {
      from.kept[type] = params.pools[branch][type].kept;
      to.pooled[type] = params.pools[branch][type].out;
    }
  }
  return from;
}

// A value of both branches, and the noise in each.
struct BranchValues {
  float of[kHalves];
  float noise[kHalves];

  // As torch.maximum: NaN if one is.
  __device__ __forceinline__ float highest() const {
    return of[0] > of[1] || of[0] != of[0] ? of[0] : of[1];
  }
};

// Of node i of a type.
__device__ __forceinline__ BranchValues node_values(const StackReadout& from,
                                                    int64_t clip,
                                                    int32_t type,
                                                    int32_t i,
                                                    int32_t o) {
  const int64_t hidden = from.hidden, first = type == 0 ? 0 : from.kept[0];
  const int64_t pooled = (clip * from.kept[type] + i) * hidden + o;
  const int64_t last =
      (clip * (from.kept[0] + from.kept[1]) + first + i) * hidden + o;
  BranchValues values;
#pragma unroll
  for (int32_t b = 0; b < kHalves; ++b) {
    const auto& branch = from.branches[b];
    const void* const noise = branch.noise[type];
    values.noise[b] = noise == nullptr ? 1 : value_at(noise, pooled);
    values.of[b] =
        (value_at(branch.pooled[type], pooled) + value_at(branch.last, last)) *
        values.noise[b];
  }
  return values;
}

__device__ __forceinline__ BranchValues master_values(const StackReadout& from,
                                                      int64_t clip,
                                                      int32_t o) {
  const int64_t entry = clip * from.hidden + o;
  BranchValues values;
#pragma unroll
  for (int32_t b = 0; b < kHalves; ++b) {
    const auto& branch = from.branches[b];
    const void* const noise = branch.master_noise;
    values.noise[b] = noise == nullptr ? 1 : value_at(noise, entry);
    values.of[b] = (value_at(branch.masters[0], entry) +
                    value_at(branch.masters[1], entry)) *
                   values.noise[b];
  }
  return values;
}

// The parts of a clip: its types, then its master.
constexpr int32_t kReadoutParts = kHalves + 1;

// A block per part of a clip, a thread per dimension. Writes the readout and,
// unless `largest` is null, (batch, kHalves, hidden) nodes.
__device__ __forceinline__ void read_out(const StackReadout& from,
                                         void* readout,
                                         int32_t* largest) {
  constexpr int32_t kBatch = 4;
  const int32_t hidden = from.hidden, o = threadIdx.x;
  if (o >= hidden)
    return;
  for (int64_t item = blockIdx.x; item < from.batch * kReadoutParts;
       item += gridDim.x) {
    const int64_t clip = item / kReadoutParts;
    const int32_t type = static_cast<int32_t>(item % kReadoutParts);
    float* out = at<float>(readout, clip * kReadoutBlocks * hidden + o);
    if (type == kHalves) {
      out[2 * kHalves * hidden] = master_values(from, clip, o).highest();
      continue;
    }
    const int32_t kept = from.kept[type];
    float most = 0, sum = 0;
    int32_t index = 0;
    in_batches<kBatch>(
        0, kept, 1,
        [&](int32_t i) {
          return node_values(from, clip, type, i, o).highest();
        },
        [&](int32_t i, float value) {
          const float magnitude = std::fabs(value);
          if (magnitude > most || (magnitude != magnitude && most == most)) {
            most = magnitude;
            index = i;
          }
          sum += value;
        });
    out[2 * type * hidden] = most;
    out[(2 * type + 1) * hidden] = sum / static_cast<float>(kept);
    if (largest != nullptr)
      largest[(clip * kHalves + type) * hidden + o] = index;
  }
}

}  // namespace sparse_aasist
