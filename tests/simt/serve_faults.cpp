// Small kernels with planted faults, for tests/test_simt.py: what the shim
// must find, beside the same kernels without the fault.
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
    default:
      return SPARSE_AASIST_LAUNCH(collectives, 1, 2048, 0, nullptr, out);
  }
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"run", run}});
}
