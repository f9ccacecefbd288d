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

// Each function returns the row of what it is given, which is added if it is new; kNoName: it is new, and there is no room.
class Interner {
 public:
  void set_room(bool has_room) { has_room_ = has_room; }
  uint32_t string(const std::string& text) { return has_room_ ? strings_.id(text) : strings_.find(text, kNoName); }
  uint32_t shape(const int64_t* dims, size_t ndim) {
    return has_room_ ? shapes_.id(dims, ndim) : shapes_.find(dims, ndim, kNoName);
  }
  uint32_t module(Module module);
  // One that no other is equal to.
  uint32_t add_module(Module module) {
    modules_.push_back(module);
    return static_cast<uint32_t>(modules_.size() - 1);
  }
  void move_modules(const NewAddresses& addresses);
  void copy_into(Tables& tables) const;
  size_t strings() const { return strings_.size(); }
  size_t characters() const { return strings_.characters(); }  // of all strings
  size_t shapes() const { return shapes_.lists().size(); }
  size_t modules() const { return modules_.size(); }

 private:
  bool has_room_ = true;
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
