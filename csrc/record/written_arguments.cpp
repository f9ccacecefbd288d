#include "record/written_arguments.h"

#include <ATen/core/function_schema.h>

#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace torchprof {
namespace {

// Ops that are said to write a tensor, and change what it looks like but none of its elements. resize_ is not among them: it may free
// the memory.
bool keeps_contents(const std::string& name) {
  static const std::unordered_set<std::string> names{
      "aten::set_",       "aten::set_data",    "aten::requires_grad_", "aten::retain_grad", "aten::detach_",
      "aten::squeeze_",   "aten::unsqueeze_",  "aten::t_",             "aten::transpose_",  "aten::swapaxes_",
      "aten::swapdims_",  "aten::as_strided_", "aten::rename_",        "aten::moveaxis_",   "aten::record_stream",
      "aten::_coalesced_"};
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

}  // namespace

// The address of an operator's name tells its overloads apart. The name is compared too: an operator may have been removed, and another
// may stand where it was.
const WrittenArguments& written_arguments(const at::RecordFunction& function) {
  static thread_local std::unordered_map<const char*, Known> known;
  static const WrittenArguments nothing;
  const char* const name = function.name();
  if (const auto found = known.find(name); found != known.end() && found->second.name == name) {
    return found->second.written;
  }
  const auto schema = function.operator_schema();
  if (!schema) {
    return nothing;  // a range that is named by a string of its own, which is gone soon
  }
  return known.insert_or_assign(name, Known{name, read(*schema)}).first->second.written;
}

}  // namespace torchprof
