// The strings, shapes and modules of a whole trace, once each. Every thread of a recording has tables of its own; here they meet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
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
  struct Hash {
    size_t operator()(const Module& module) const { return module.address * 0x9E3779B97F4A7C15u ^ module.type; }
  };
  struct Same {
    bool operator()(const Module& a, const Module& b) const { return a.address == b.address && a.type == b.type; }
  };
  std::unordered_map<Module, uint32_t, Hash, Same> module_ids_;
};

}  // namespace torchprof
