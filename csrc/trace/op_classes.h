// What ops are to a count of FLOPs, by name. The table is handed over by Python once, and again when a formula was registered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace torchprof {

enum class OpClass : uint8_t {
  kUnknown,   // in no table: counted by what is inside it
  kFree,      // no FLOPs of its own
  kCounted,   // a formula stands for all of it
  kCompiled,  // code that torch.compile wrote: ops that are seen in it are counted, and others may be in it that are not seen
};

class OpClasses {
 public:
  using Names = std::unordered_set<std::string>;

  OpClasses() = default;
  OpClasses(const Names& counted, const Names& free, Names with_arguments) : with_arguments_(std::move(with_arguments)) {
    for (const std::string& name : free) {
      classes_.emplace(name, OpClass::kFree);
    }
    for (const std::string& name : counted) {
      classes_[name] = OpClass::kCounted;
    }
  }

  // Only what the dispatcher runs may be unknown. Functions in Python and ranges have no namespace.
  OpClass of(const std::string& name, bool of_dispatcher) const {
    const auto found = classes_.find(name);
    return found != classes_.end() ? found->second : unlisted(name, of_dispatcher);
  }

  // The row of the table, which stays where it is; nullptr: none.
  const std::pair<const std::string, OpClass>* find(const char* name) const {
    const auto found = classes_.find(name);
    return found != classes_.end() ? &*found : nullptr;
  }

  static OpClass unlisted(std::string_view name, bool of_dispatcher) {
    if (name.starts_with("Torch-Compiled Region")) {
      return OpClass::kCompiled;
    }
    if (name.starts_with("torch::distributed::")) {
      return OpClass::kFree;  // ranges around the copies of DistributedDataParallel, which look like ops
    }
    return of_dispatcher && name.find("::") != std::string_view::npos ? OpClass::kUnknown : OpClass::kFree;
  }

  bool needs_arguments(const std::string& name) const { return with_arguments_.count(name) != 0; }

 private:
  std::unordered_map<std::string, OpClass> classes_;
  Names with_arguments_;
};

}  // namespace torchprof
