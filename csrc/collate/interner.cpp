#include "collate/interner.h"

namespace torchprof {

uint32_t Interner::module(Module module) {
  const auto [found, added] = module_ids_.try_emplace(module, static_cast<uint32_t>(modules_.size()));
  if (added) {
    modules_.push_back(module);
  }
  return found->second;
}

void Interner::move_into(Tables& tables) {
  for (uint32_t id = 0; id < strings_.size(); ++id) {
    tables.strings.push_back(strings_[id]);
  }
  tables.shapes = shapes_.lists();
  tables.dims = shapes_.values();
  tables.modules = std::move(modules_);
}

}  // namespace torchprof
