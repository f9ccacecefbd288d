// The strings, shapes and modules of a whole trace, once each. Every thread of a recording has tables of its own; here they meet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "trace/list_table.h"
#include "trace/string_table.h"
#include "trace/tables.h"

namespace torchprof {

// Each function returns the row of what it is given, which is added if it is new.
class Interner {
 public:
  uint32_t string(const std::string& text) { return strings_.id(text); }
  uint32_t shape(const int64_t* dims, size_t ndim) { return shapes_.id(dims, ndim); }
  uint32_t module(Module module);
  void move_into(Tables& tables);

 private:
  StringTable strings_;
  ListTable shapes_;
  std::vector<Module> modules_;
  std::map<std::pair<uint64_t, uint32_t>, uint32_t> module_ids_;  // by address and type
};

}  // namespace torchprof
