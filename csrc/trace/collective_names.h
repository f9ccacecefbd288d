// Which ops ask other ranks for something, by their namespace.
#pragma once

#include <string_view>

namespace torchprof {

inline bool is_of_collectives(std::string_view name) {
  return name.starts_with("c10d::") || name.starts_with("_c10d_functional") || name.starts_with("c10d_functional::") ||
         name.starts_with("_dtensor::");
}

}  // namespace torchprof
