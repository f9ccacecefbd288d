#include "record/written_arguments.h"

#include <ATen/core/function_schema.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "record/pointer_set.h"

namespace torchprof {
namespace {

// Ops that are said to write a tensor, and change what it looks like but none of its elements. resize_ is not among them: it may free
// the memory.
bool keeps_contents(const std::string& name) {
  static const std::unordered_set<std::string> names{
      "aten::set_",       "aten::set_data",  "aten::requires_grad_", "aten::retain_grad",
      "aten::detach_",    "aten::squeeze_",  "aten::unsqueeze_",     "aten::t_",
      "aten::transpose_", "aten::swapaxes_", "aten::swapdims_",      "aten::as_strided_",
      "aten::rename_",    "aten::moveaxis_", "aten::record_stream",  "aten::_coalesced_"};
  return names.contains(name);
}

// Normalization writes its running statistics, and the schemas of its older ops do not say so.
bool is_running_statistic(const c10::Argument& argument) {
  return argument.name() == "running_mean" || argument.name() == "running_var";
}

bool is_training_flag(const c10::Argument& argument) {
  const std::string& name = argument.name();
  return name == "training" || name == "train" || name == "use_input_stats";
}

bool only_reads_statistics(std::string_view name) {
  return name.find("backward") != name.npos || name.find("functional") != name.npos || name.find("_no_") != name.npos;
}

WrittenArguments read(const c10::FunctionSchema& schema) {
  WrittenArguments written;
  const auto& arguments = schema.arguments();
  for (size_t row = 0; row < arguments.size(); ++row) {
    if (const c10::AliasInfo* const alias = arguments[row].alias_info(); alias != nullptr && alias->isWrite()) {
      written.rows.push_back(static_cast<uint16_t>(row));
    }
  }
  if (!written.empty()) {
    written.contents = !keeps_contents(schema.name());
  }
  if (only_reads_statistics(schema.name())) {
    return written;
  }
  const bool only_statistics = written.empty();
  for (size_t row = 0; row < arguments.size(); ++row) {
    const c10::AliasInfo* const alias = arguments[row].alias_info();
    if (is_running_statistic(arguments[row]) && (alias == nullptr || !alias->isWrite())) {
      written.rows.push_back(static_cast<uint16_t>(row));
    }
  }
  if (only_statistics && !written.empty()) {
    for (size_t row = 0; row < arguments.size(); ++row) {
      if (is_training_flag(arguments[row])) {
        written.condition = static_cast<int32_t>(row);
      }
    }
  }
  return written;
}

struct Known {
  std::string name;
  WrittenArguments written;
};

// The name is compared: an operator may have been removed since, and another may stand where it was.
// nullptr where the function is no operator but a range, whose name may be gone soon.
const WrittenArguments* find(const at::RecordFunction& function) {
  static thread_local std::unordered_map<const char*, Known> known;
  const char* const name = function.name();
  if (const auto found = known.find(name); found != known.end() && found->second.name == name) {
    return &found->second.written;
  }
  const auto schema = function.operator_schema();
  return schema ? &known.insert_or_assign(name, Known{name, read(*schema)}).first->second.written : nullptr;
}

struct Recent {
  const char* name;
  uint64_t pass;
  const WrittenArguments* written;
};
using RecentOps = std::array<Recent, 1024>;

}  // namespace

// The address of an operator's name tells its overloads apart.
const WrittenArguments& written_arguments(const at::RecordFunction& function, uint64_t pass) {
  static thread_local const auto recent =
      std::make_unique<RecentOps>();  // there is little room for what threads have of their own
  const char* const name = function.name();
  Recent& slot = (*recent)[hash_of(name) % recent->size()];
  if (slot.name != name || slot.pass != pass) {
    const WrittenArguments* const written = find(function);
    if (written == nullptr) {
      static const WrittenArguments nothing;
      return nothing;
    }
    slot = {name, pass, written};
  }
  return *slot.written;
}

}  // namespace torchprof
