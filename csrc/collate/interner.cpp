#include "collate/interner.h"

namespace torchprof {

uint32_t Interner::module(Module module) {
  if (!has_room_) {
    const auto known = module_ids_.find(module);
    return known != module_ids_.end() ? known->second : kNoName;
  }
  const auto [found, added] = module_ids_.try_emplace(module, static_cast<uint32_t>(modules_.size()));
  if (added) {
    modules_.push_back(module);
  }
  return found->second;
}

// Where memory runs out, a module may get another row next time.
void Interner::move_modules(const NewAddresses& addresses) {
  for (uint32_t row = 0; row < modules_.size(); ++row) {
    Module& module = modules_[row];
    if (const auto found = addresses.find(module.address); found != addresses.end()) {
      module_ids_.erase(module);
      module.address = found->second;
      module_ids_.try_emplace(module, row);
    }
  }
}

void Interner::copy_into(Tables& tables) const {
  for (uint32_t id = 0; id < strings_.size(); ++id) {
    tables.strings.push_back(strings_[id]);
  }
  tables.shapes = shapes_.lists();
  tables.dims = shapes_.values();
  tables.modules = modules_;
}

}  // namespace torchprof
