// Selection with a block per row, for long rows and for float64.
//
// 1. A histogram over the next 11 bits of the keys narrows the class of keys
//    that holds the k-th, until at most 1,024 keys are in it (usually once),
//    or all of it is kept, or its keys are equal.
// 2. A second pass over the row marks what is above the class in a bitmap and
//    lists the class, and clears the output.
// 3. The block bisects on the list, one key per thread, marks what is kept,
//    and writes the marked entries in order: a prefix sum over the words of
//    the bitmap gives their places.
#pragma once

#include "launch.h"
#include "row_access.cuh"
#include "topk_activation.h"
#include "topk_warp.cuh"

namespace sparse_aasist {

constexpr int32_t kBlockThreads = 1024;
constexpr int32_t kDigitBits = 11;
constexpr int32_t kBins = 1 << kDigitBits;
constexpr int32_t kWordsPerThread = kMaxDim / 32 / kBlockThreads;
static_assert(kBins == 2 * kBlockThreads);

// Keys as unsigned integers, in the same order.
template <class Format>
using Unsigned = std::make_unsigned_t<typename Format::Bits>;

template <class Format>
__device__ __forceinline__ Unsigned<Format> unsigned_key(
    typename Format::Bits key) {
  constexpr auto kSign =
      static_cast<Unsigned<Format>>(KeyRange<Format>::kNothing);
  return static_cast<Unsigned<Format>>(key) ^ kSign;
}

// Keys above `upper` are kept, and `wanted` of the `size` in [lower, upper].
template <class Key>
struct KeyClass {
  Key lower;
  Key upper;
  int32_t wanted;
  int32_t size;
};

template <class Key>
union BlockWorkspace {
  uint32_t histogram[kBins];  // of the highest digit first
  struct {
    Key keys[kBlockThreads];
    int32_t indices[kBlockThreads];
  } list;
};

template <class Key>
struct BlockShared {
  BlockWorkspace<Key> work;
  uint32_t kept[kMaxDim / 32];  // bit per entry
  uint32_t tied[kMaxDim / 32];  // candidates, of which the first are kept
  int32_t warp_sums[32];
  int32_t listed;
  int32_t bin;
  int32_t bin_before;
  int32_t bin_size;
};

// Sum over the threads before this one.
__device__ __forceinline__ int32_t sum_before(int32_t value,
                                              int32_t* warp_sums) {
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t inclusive = value;
#pragma unroll
  for (int32_t distance = 1; distance < 32; distance *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, inclusive, distance);
    inclusive += lane >= distance ? other : 0;
  }
  if (lane == 31)
    warp_sums[warp] = inclusive;
  __syncthreads();
  const int32_t before = lane < warp ? warp_sums[lane] : 0;
  const int32_t sum = __reduce_add_sync(kAllLanes, before) + inclusive - value;
  __syncthreads();
  return sum;
}

// Calls visit(index, bits of four entries) for the quads of a row.
template <class Format, class Visit>
__device__ __forceinline__ void for_each_quad(
    const TopkActivationParams& params,
    int64_t row,
    const Visit& visit) {
  using Bits = typename Format::Bits;
  const Bits* x = at<Bits>(params.x, row * params.x_stride);
  for (int32_t index = threadIdx.x * kQuad; index < params.dim;
       index += kBlockThreads * kQuad)
    visit(index, load_quad<Bits>(x, index, params.dim, 0));
}

// Narrows the class by the `width` bits above `shift`.
template <class Format>
__device__ void narrow(const TopkActivationParams& params,
                       int64_t row,
                       int32_t shift,
                       int32_t width,
                       KeyClass<Unsigned<Format>>& keys,
                       BlockShared<Unsigned<Format>>& shared) {
  using Key = Unsigned<Format>;
  const int32_t last = (1 << width) - 1;
  const auto bin_of = [&](Key key) {
    return last - static_cast<int32_t>(key >> shift & last);
  };
  uint32_t* histogram = shared.work.histogram;
  for (int32_t bin = threadIdx.x; bin < kBins; bin += kBlockThreads)
    histogram[bin] = 0;
  __syncthreads();
  // Rows with many zeros are common, and all of them would wait for one bin.
  const Key zero = unsigned_key<Format>(0);
  int32_t zeros = 0;
  for_each_quad<Format>(
      params, row, [&](int32_t index, const Quad<typename Format::Bits>& quad) {
#pragma unroll
        for (int32_t e = 0; e < kQuad; ++e) {
          const Key key =
              unsigned_key<Format>(key_of<Format>(quad.of[e], params.by));
          if (index + e >= params.dim || key < keys.lower || key > keys.upper)
            continue;
          if (key == zero)
            ++zeros;
          else
            atomicAdd(&histogram[bin_of(key)], 1u);
        }
      });
  zeros = __reduce_add_sync(kAllLanes, zeros);
  if (threadIdx.x % 32 == 0 && zeros > 0)
    atomicAdd(&histogram[bin_of(zero)], static_cast<uint32_t>(zeros));
  __syncthreads();
  const int32_t first = static_cast<int32_t>(histogram[2 * threadIdx.x]);
  const int32_t second = static_cast<int32_t>(histogram[2 * threadIdx.x + 1]);
  const int32_t before = sum_before(first + second, shared.warp_sums);
  if (before < keys.wanted && keys.wanted <= before + first + second) {
    const bool in_first = keys.wanted <= before + first;
    shared.bin = 2 * static_cast<int32_t>(threadIdx.x) + !in_first;
    shared.bin_before = in_first ? before : before + first;
    shared.bin_size = in_first ? first : second;
  }
  __syncthreads();
  const Key digit = static_cast<Key>(last - shared.bin);
  keys.lower = static_cast<Key>(keys.lower | digit << shift);
  keys.upper = static_cast<Key>(keys.lower | ((Key{1} << shift) - 1));
  keys.wanted -= shared.bin_before;
  keys.size = shared.bin_size;
}

// Marks what is above the class, lists (or marks as tied) what is in it, and
// clears the row of y.
template <class Format>
__device__ void mark(const TopkActivationParams& params,
                     int64_t row,
                     bool list,
                     const KeyClass<Unsigned<Format>>& keys,
                     BlockShared<Unsigned<Format>>& shared) {
  using Bits = typename Format::Bits;
  using Key = Unsigned<Format>;
  for (int32_t word = threadIdx.x; word * 32 < params.dim;
       word += kBlockThreads)
    shared.kept[word] = shared.tied[word] = 0;
  if (threadIdx.x == 0)
    shared.listed = 0;
  __syncthreads();
  Bits* y = at<Bits>(params.y, row * params.dim);
  for_each_quad<Format>(
      params, row, [&](int32_t index, const Quad<Bits>& quad) {
        uint32_t kept = 0, tied = 0;
#pragma unroll
        for (int32_t e = 0; e < kQuad; ++e) {
          const Key key =
              unsigned_key<Format>(key_of<Format>(quad.of[e], params.by));
          if (index + e >= params.dim || key < keys.lower)
            continue;
          if (key > keys.upper) {
            kept |= 1u << e;
          } else if (list) {
            const int32_t slot = atomicAdd(&shared.listed, 1);
            shared.work.list.keys[slot] = key;
            shared.work.list.indices[slot] = index + e;
          } else {
            tied |= 1u << e;
          }
        }
        if (kept != 0)
          atomicOr(&shared.kept[index / 32], kept << index % 32);
        if (tied != 0)
          atomicOr(&shared.tied[index / 32], tied << index % 32);
        if (y != nullptr)
          store_quad<Bits>(y, index, params.dim, Quad<Bits>{});
      });
  __syncthreads();
}

// Marks the wanted keys of the list; leaves in keys.wanted how many of those
// marked as tied are to be kept.
template <class Key>
__device__ void mark_list(KeyClass<Key>& keys, BlockShared<Key>& shared) {
  const bool has = static_cast<int32_t>(threadIdx.x) < keys.size;
  const Key key = has ? shared.work.list.keys[threadIdx.x] : Key{0};
  // The lowest pivot with fewer than `wanted` keys above it, or any with
  // exactly that many.
  Key low = keys.lower, high = keys.upper;
  int32_t ties = keys.wanted;
  while (low < high) {
    const Key middle = static_cast<Key>(low + (high - low) / 2);
    const int32_t above = __syncthreads_count(has && key > middle);
    if (above > keys.wanted) {
      low = static_cast<Key>(middle + 1);
    } else {
      high = middle;
      ties = keys.wanted - above;
      if (ties == 0)
        break;
    }
  }
  if (has && key >= high) {
    const int32_t index = shared.work.list.indices[threadIdx.x];
    uint32_t* marks = key > high ? shared.kept : shared.tied;
    atomicOr(&marks[index / 32], 1u << index % 32);
  }
  keys.wanted = ties;
  __syncthreads();
}

// Writes the marked entries; of the tied ones the first `ties`.
template <class Format>
__device__ void write_marked(const TopkActivationParams& params,
                             int64_t row,
                             int32_t ties,
                             BlockShared<Unsigned<Format>>& shared) {
  using Bits = typename Format::Bits;
  // A thread has neighbouring words.
  const int32_t words = (params.dim + 31) / 32;
  const int32_t first = static_cast<int32_t>(threadIdx.x) * kWordsPerThread;
  uint32_t kept[kWordsPerThread], tied[kWordsPerThread];
  int32_t count = 0;
#pragma unroll
  for (int32_t w = 0; w < kWordsPerThread; ++w) {
    const bool inside = first + w < words;
    kept[w] = inside ? shared.kept[first + w] : 0;
    tied[w] = inside ? shared.tied[first + w] : 0;
    count += __popc(tied[w]);
  }
  ties -= sum_before(count, shared.warp_sums);
  count = 0;
#pragma unroll
  for (int32_t w = 0; w < kWordsPerThread; ++w) {
    kept[w] |= first_bits(tied[w], ties);
    ties -= __popc(tied[w]);
    count += __popc(kept[w]);
  }
  int32_t position = sum_before(count, shared.warp_sums);
  Bits* y = at<Bits>(params.y, row * params.dim);
#pragma unroll
  for (int32_t w = 0; w < kWordsPerThread; ++w) {
    for (; kept[w] != 0; kept[w] &= kept[w] - 1) {
      const int32_t index = (first + w) * 32 + __ffs(kept[w]) - 1;
      const Bits value = keep<Format>(params, row, index, position++);
      if (y != nullptr)
        y[index] = value;
    }
  }
}

// `finish` as in topk_warp_kernel, here with all warps of the block.
template <class Format, class Finish>
__global__ void __launch_bounds__(kBlockThreads, 1)
    topk_block_kernel(TopkActivationParams params, Finish finish) {
  using Key = Unsigned<Format>;
  constexpr int32_t kKeyBits = 8 * sizeof(Key);
  SPARSE_AASIST_SHARED(BlockShared<Key>, block, 1);
  BlockShared<Key>& shared = block[0];
  for (int64_t row = blockIdx.x; row < params.rows; row += gridDim.x) {
    KeyClass<Key> keys{0, static_cast<Key>(~Key{0}), params.k, params.dim};
    int32_t shift = kKeyBits;
    while (keys.size > kBlockThreads && keys.size > keys.wanted && shift > 0) {
      const int32_t width = shift < kDigitBits ? shift : kDigitBits;
      shift -= width;
      narrow<Format>(params, row, shift, width, keys, shared);
    }
    const bool list = keys.size > keys.wanted && shift > 0;
    mark<Format>(params, row, list, keys, shared);
    if (list)
      mark_list<Key>(keys, shared);
    write_marked<Format>(params, row, keys.wanted, shared);
    __syncthreads();
    finish(row, threadIdx.x / 32, kBlockThreads / 32);
  }
}

}  // namespace sparse_aasist
