#include "collate/held_modules.h"

#include <algorithm>
#include <string>
#include <unordered_set>

namespace torchprof {
namespace {

uint32_t row_of(const std::string& text, std::vector<std::string>& strings) {
  const auto found = std::find(strings.begin(), strings.end(), text);
  const auto row = static_cast<uint32_t>(found - strings.begin());
  if (found == strings.end()) {
    strings.push_back(text);
  }
  return row;
}

}  // namespace

void add_modules(Tables& tables, const std::vector<Held>& held) {
  std::unordered_set<uint64_t> known;
  for (const Module& module : tables.modules) {
    known.insert(module.address);
  }
  for (const Held& item : held) {
    if (item.bytes != 0 && known.insert(item.module).second) {
      tables.modules.push_back({item.module, row_of(item.type, tables.strings), 0});
    }
  }
}

}  // namespace torchprof
