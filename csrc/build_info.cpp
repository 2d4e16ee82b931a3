// Python module sparse_aasist._build_info: what this build contains.
// Kept apart from the ops, which load without it.
#include <sstream>
#include <string>

#include <pybind11/pybind11.h>

#include "build_config.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

// Which of these runs is chosen later (simd_level.h).
py::list simd() {
  py::list levels;
  std::istringstream names(SPARSE_AASIST_SIMD_LEVELS);
  for (std::string name; names >> name;)
    levels.append(name);
  return levels;
}

py::object text_or_none(const char* text) {
  return *text == '\0' ? py::object(py::none()) : py::object(py::str(text));
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = compiler();
  info["simd"] = simd();
  info["cuda"] = text_or_none(SPARSE_AASIST_CUDA_VERSION);
  info["cuda_architectures"] = text_or_none(SPARSE_AASIST_CUDA_ARCHITECTURES);
  info["stable_abi"] = SPARSE_AASIST_STABLE_ABI;
  info["torch"] = SPARSE_AASIST_TORCH_VERSION;
  return info;
}

}  // namespace

PYBIND11_MODULE(_build_info, module) {
  module.def("build_info", &build_info,
             "Return what this build contains: compiler, instruction sets, "
             "CUDA version and architectures (None without CUDA), the oldest "
             "torch its ops load in, and the torch it was built against.");
}
