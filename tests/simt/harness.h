// Serves calls of kernels to a test, over standard input and output, so that
// one program, with sanitizers, runs any number of cases.
//
//   request   NAME COUNT scalar... COUNT bytes... \n  array contents
//   response  ok\n  array contents, as the kernel left them
//             refused REASON\n
//
// Arrays lie between poisoned guards: an access out of bounds, even a far one,
// ends the program.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

namespace sparse_aasist::simt {

class Array {
 public:
  explicit Array(size_t bytes) : bytes_(bytes) {
    const size_t total = (bytes + kAlign - 1) / kAlign * kAlign + 2 * kGuard;
    base_ = static_cast<char*>(std::aligned_alloc(kAlign, total));
    ASAN_POISON_MEMORY_REGION(base_, kGuard);
    ASAN_POISON_MEMORY_REGION(data() + bytes, total - kGuard - bytes);
    total_ = total;
  }
  Array(const Array&) = delete;
  ~Array() {
    ASAN_UNPOISON_MEMORY_REGION(base_, total_);
    std::free(base_);
  }

  char* data() const { return base_ + kGuard; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kGuard = 1 << 16;
  static constexpr size_t kAlign = 256;  // as torch's allocators, or better
  size_t bytes_, total_;
  char* base_;
};

// What a kernel may write and then read; what it reads first shows.
class Room {
 public:
  explicit Room(int64_t bytes) : array_(static_cast<size_t>(bytes)) {
    std::memset(array_.data(), 0xff, array_.bytes());
  }
  template <class T = void>
  T* data() const {
    return reinterpret_cast<T*>(array_.data());
  }

 private:
  Array array_;
};

struct Call {
  std::vector<int64_t> scalars;
  std::vector<std::unique_ptr<Array>> arrays;

  template <class T = void>
  T* array(size_t i) const {
    return reinterpret_cast<T*>(arrays.at(i)->data());
  }
  // For arguments that may be absent: null where the array is empty.
  template <class T = void>
  T* array_or_null(size_t i) const {
    return arrays.at(i)->bytes() == 0 ? nullptr : array<T>(i);
  }
};

// Runs a kernel; nullptr, or why it was refused.
using Kernel = std::function<const char*(const Call&)>;

inline int serve(const std::map<std::string, Kernel>& kernels) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string name;
    size_t count = 0;
    words >> name >> count;
    Call call;
    call.scalars.resize(count);
    for (int64_t& scalar : call.scalars)
      words >> scalar;
    words >> count;
    for (size_t i = 0; i < count; ++i) {
      size_t bytes = 0;
      words >> bytes;
      call.arrays.push_back(std::make_unique<Array>(bytes));
    }
    if (!words)
      return 2;
    for (const auto& array : call.arrays)
      std::cin.read(array->data(),
                    static_cast<std::streamsize>(array->bytes()));
    if (const char* reason = kernels.at(name)(call)) {
      std::cout << "refused " << reason << "\n" << std::flush;
      continue;
    }
    std::cout << "ok\n";
    for (const auto& array : call.arrays)
      std::cout.write(array->data(),
                      static_cast<std::streamsize>(array->bytes()));
    std::cout << std::flush;
  }
  return 0;
}

}  // namespace sparse_aasist::simt
