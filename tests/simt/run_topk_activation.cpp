// Runs the CUDA source of topk_activation on a CPU.
//
//   run_topk_activation FORMAT ROWS DIM K BY_ABS  < x  > y, mask
//
// FORMAT is the number of a FloatFormat; x, y and mask are raw arrays.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "topk_activation.h"

using sparse_aasist::FloatFormat;

namespace {

int element_bytes(FloatFormat format) {
  switch (format) {
    case FloatFormat::kFloat32:
      return 4;
    case FloatFormat::kFloat64:
      return 8;
    default:
      return 2;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6)
    return 2;
  sparse_aasist::TopkActivationParams params{};
  params.format = static_cast<FloatFormat>(std::atoi(argv[1]));
  params.rows = std::atoll(argv[2]);
  params.dim = std::atoi(argv[3]);
  params.k = std::atoi(argv[4]);
  params.by_abs = std::atoi(argv[5]) != 0;

  const size_t count = static_cast<size_t>(params.rows) * params.dim;
  // uint64_t keeps the arrays aligned for every format; one element more than
  // needed, so that an empty batch has an address too.
  std::vector<uint64_t> x(count + 1), y(count + 1);
  std::vector<char> mask(count + 1, 2);
  const size_t bytes = count * element_bytes(params.format);
  if (std::fread(x.data(), 1, bytes, stdin) != bytes)
    return 3;
  params.x = x.data();
  params.y = y.data();
  params.mask = reinterpret_cast<bool*>(mask.data());

  if (const char* error = topk_activation_cuda(params, nullptr)) {
    std::fprintf(stderr, "%s\n", error);
    return 4;
  }
  std::fwrite(y.data(), 1, bytes, stdout);
  std::fwrite(mask.data(), 1, count, stdout);
  return 0;
}
