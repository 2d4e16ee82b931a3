// Small kernels with planted faults, for tests/test_simt.py: what the shim
// must find, beside the same kernels without the fault. And the instructions of
// tensor cores, one tile of each.
#include "cuda/tensor_core.cuh"
#include "harness.h"
#include "launch.h"

namespace sparse_aasist::simt {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// out[block] = sum of the block's thread numbers, through shared memory.
__global__ void block_sum(bool barrier, double* out) {
  SPARSE_AASIST_SHARED(double, parts, 64);
  parts[threadIdx.x] = threadIdx.x;
  if (barrier)
    __syncthreads();
  // Threads of both warps read what all wrote.
  double sum = 0;
  for (unsigned i = 0; i < blockDim.x; ++i)
    sum += parts[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// out[i] = the number of lane 31 - i.
__global__ void reverse_warp(bool barrier, double* out) {
  SPARSE_AASIST_DYNAMIC_SHARED(double, values);
  values[threadIdx.x] = threadIdx.x;
  if (barrier)
    __syncwarp();
  out[threadIdx.x] = values[31 - threadIdx.x];
}

__global__ void collectives(double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __ballot_sync(kAll, lane % 3 == 0);
  out[32 + lane] = __reduce_add_sync(kAll, lane - 20);
  out[64 + lane] = __reduce_min_sync(kAll, (lane * 7) % 32 - 20);
  out[96 + lane] = __reduce_max_sync(kAll, (lane * 7) % 32 - 60);
  out[128 + lane] = __shfl_up_sync(kAll, lane, 3);
  out[160 + lane] = __shfl_xor_sync(kAll, 0.5 * lane, 5);
  out[192 + lane] = __syncthreads_count(lane > 10);
  // The halves of a warp may go different ways.
  if (lane < 16)
    out[224 + lane] = __reduce_add_sync(0x0000ffffu, lane);
  else
    out[224 + lane] = __ballot_sync(0xffff0000u, lane % 2);
}

__global__ void fault(int number, double* data) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  SPARSE_AASIST_SHARED(double, array, 64);
  SPARSE_AASIST_DYNAMIC_SHARED(double, dynamic);
  switch (number) {
    case 0:  // some lanes never arrive
      if (lane < 16)
        __ballot_sync(kAll, 1);
      break;
    case 1:  // different collectives
      if (lane < 16)
        __ballot_sync(kAll, 1);
      else
        __syncwarp();
      break;
    case 2:  // different barriers
      if (threadIdx.x < 32)
        __syncthreads();
      else
        __syncthreads_count(1);
      break;
    case 3:  // a mask without the caller
      __ballot_sync(kAll << 1, 1);
      break;
    case 4:  // a shuffle from a lane that is not in the mask
      if (lane < 16)
        __shfl_xor_sync(0x0000ffffu, lane, 16);
      break;
    case 5:  // one row too far
      data[64] = 1;
      break;
    case 6:  // far out of bounds
      data[-5000] = 1;
      break;
    case 7:
      array[64 + lane] = 1;
      break;
    case 8:
      dynamic[4 + lane] = 1;
      break;
    case 9:  // undefined shift
      data[0] = 1 << (lane + 32);
      break;
  }
}

constexpr size_t kUnraised = 48 << 10, kLimit = 64 << 10;

const char* launch_raised(size_t shared_bytes, double* out) {
  if (const char* error = allow_dynamic_shared(&reverse_warp, kLimit))
    return error;
  return SPARSE_AASIST_LAUNCH(reverse_warp, 1, 32, shared_bytes, nullptr, true,
                              out);
}

const char* launch_too_large(int number, double* out) {
  switch (number) {
    case 0:
      return SPARSE_AASIST_LAUNCH(collectives, 1, 2048, 0, nullptr, out);
    case 1:
      return SPARSE_AASIST_LAUNCH(collectives, 1, 32, kUnraised + 1, nullptr,
                                  out);
    case 2:
      return launch_raised(kLimit + 1, out);
    default:
      return allow_dynamic_shared(&collectives, kMostDynamicShared + 1);
  }
}

const char* run(const Call& call) {
  set_schedule(static_cast<Schedule>(call.scalars.at(1)));
  double* out = call.array<double>(0);
  const int number = static_cast<int>(call.scalars.at(2));
  switch (call.scalars.at(0)) {
    case 0:
      return SPARSE_AASIST_LAUNCH(block_sum, 2, 64, 0, nullptr, number != 0,
                                  out);
    case 1:
      return SPARSE_AASIST_LAUNCH(reverse_warp, 1, 32, 256, nullptr,
                                  number != 0, out);
    case 2:
      return SPARSE_AASIST_LAUNCH(collectives, 1, 32, 0, nullptr, out);
    case 3:
      return SPARSE_AASIST_LAUNCH(fault, 1, 64, 32, nullptr, number, out);
    case 4:
      return launch_too_large(number, out);
    default:
      return launch_raised(kLimit, out);
  }
}

// c += a b of 16 x 16 tiles, those of a and b in bfloat16. With b_by_columns b
// lies transposed.
__global__ void multiply_tile(bool b_by_columns,
                              const uint16_t* a,
                              const uint16_t* b,
                              float* c) {
  constexpr int kSize = 16;
  SPARSE_AASIST_SHARED(uint16_t, rooms, 2 * kSize * kSize);
  uint16_t* const room_a = rooms;
  uint16_t* const room_b = rooms + kSize * kSize;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < kSize * kSize; i += 32) {
    room_a[i] = a[i];
    room_b[i] = b[i];
  }
  __syncwarp();
  // Row and column where the matrices begin that this lane names a row of:
  // 0, 8 | 8, 8 and the same of the columns.
  const int row = lane % 16, half = lane / 16 * 8;
  uint32_t of_a[4], of_b[4];
  load_matrices(of_a, room_a + row * kSize + half);
  if (b_by_columns)  // the matrices of b in the order that b's fragments have
    load_matrices(of_b, room_b + (half + lane % 8) * kSize + lane / 8 % 2 * 8);
  else
    load_transposed(of_b, room_b + row * kSize + half);
  const int g = lane / 4, t = lane % 4;
  for (int tile = 0; tile < 2; ++tile) {
    float sums[4];
    float* const out = c + g * kSize + 8 * tile + 2 * t;
    for (int i = 0; i < 4; ++i)
      sums[i] = out[i / 2 * 8 * kSize + i % 2];
    multiply_add(sums, of_a, of_b[2 * tile], of_b[2 * tile + 1]);
    for (int i = 0; i < 4; ++i)
      out[i / 2 * 8 * kSize + i % 2] = sums[i];
  }
}

// Scalars: schedule, whether b lies by columns. Arrays: a, b, c.
const char* multiply(const Call& call) {
  set_schedule(static_cast<Schedule>(call.scalars.at(0)));
  return SPARSE_AASIST_LAUNCH(multiply_tile, 1, 32, 0, nullptr,
                              call.scalars.at(1) != 0, call.array<uint16_t>(0),
                              call.array<uint16_t>(1), call.array<float>(2));
}

__global__ void round_trip(float* pairs, uint32_t* packed) {
  float* const pair = pairs + 2 * threadIdx.x;
  const uint32_t both = pack_bfloat16(pair[0], pair[1]);
  packed[threadIdx.x] = both;
  pair[0] = low_bfloat16(both);
  pair[1] = high_bfloat16(both);
}

// Arrays: 32 pairs of float32, which come back rounded, and as they are packed.
const char* pack(const Call& call) {
  return SPARSE_AASIST_LAUNCH(round_trip, 1, 32, 0, nullptr,
                              call.array<float>(0), call.array<uint32_t>(1));
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"run", run}, {"multiply", multiply}, {"pack", pack}});
}
