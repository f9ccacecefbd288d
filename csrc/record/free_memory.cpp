#include "record/free_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace torchprof {
namespace {

constexpr uint64_t kSmall = uint64_t{16} << 20;
constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();

uint64_t number_in(const char* path) {
  uint64_t number = 0;
  return std::ifstream(path) >> number ? number : kUnknown;  // "max" is no number
}

// The number after a word: `MemAvailable:  123 kB`.
uint64_t number_after(const char* word, const char* path) {
  std::ifstream file(path);
  for (std::string key, rest; file >> key; std::getline(file, rest)) {
    if (key == word) {
      uint64_t number = 0;
      return file >> number ? number : kUnknown;
    }
  }
  return kUnknown;
}

uint64_t available_on_machine() {
  const uint64_t kibibytes = number_after("MemAvailable:", "/proc/meminfo");
  return kibibytes == kUnknown ? kUnknown : kibibytes * 1024;
}

// Cached files count as used, and make room when it is needed.
uint64_t available_in_container() {
  const uint64_t most = number_in("/sys/fs/cgroup/memory.max");
  const uint64_t used = number_in("/sys/fs/cgroup/memory.current");
  const uint64_t files = number_after("file", "/sys/fs/cgroup/memory.stat");
  if (most == kUnknown || used == kUnknown || files == kUnknown) {
    return kUnknown;
  }
  const uint64_t kept = used - std::min(used, files);
  return most - std::min(most, kept);
}

}  // namespace

bool may_allocate(uint64_t bytes) {
  return bytes < kSmall || bytes < std::min(available_on_machine(), available_in_container()) / 10 * 9;
}

}  // namespace torchprof
