#include "record/collectives.h"

#include <dlfcn.h>

#include <cstdio>
#include <string_view>

namespace torchprof {
namespace {

// c10d::ProcessGroup::getGroupName() const, which reads a member. It is virtual, and Python may have replaced it, so the function of the
// class is called itself. It is looked up, as a PyTorch may be built without torch.distributed: nullptr.
using GroupName = const std::string& (*)(const torch::CustomClassHolder*);
const auto group_name = reinterpret_cast<GroupName>(dlsym(RTLD_DEFAULT, "_ZNK4c10d12ProcessGroup12getGroupNameB5cxx11Ev"));

constexpr std::string_view kProcessGroup = "__torch__.torch.classes.c10d.ProcessGroup";

// Where the value is a process group that has a name. Without any backend it has none: PyTorch raises then.
const std::string* name_of_group(const c10::IValue& value) {
  if (!value.isObject() || group_name == nullptr) {
    return nullptr;
  }
  const c10::ivalue::Object& object = value.toObjectRef();
  if (object.slots().size() != 1 || !object.slots().front().isCapsule() || object.name() != kProcessGroup) {
    return nullptr;
  }
  const auto group = object.slots().front().toCapsule();
  try {
    return group != nullptr ? &group_name(group.get()) : nullptr;
  } catch (const c10::Error&) {
    return nullptr;
  }
}

std::string json_text(std::string_view name) {
  std::string text = "\"";
  for (const char each : name) {
    if (static_cast<unsigned char>(each) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(each));
      text += code;
      continue;
    }
    if (each == '"' || each == '\\') {
      text += '\\';
    }
    text += each;
  }
  return text + '"';
}

}  // namespace

std::string group_text(c10::ArrayRef<const c10::IValue> arguments) {
  const std::string* found = nullptr;
  std::string numbers;
  for (const c10::IValue& value : arguments) {
    if (value.isInt()) {
      numbers += (numbers.empty() ? "" : ", ") + std::to_string(value.toInt());
    } else if (const std::string* const name = value.isString() ? &value.toStringRef() : name_of_group(value)) {
      found = name;
    }
  }
  return found != nullptr ? "{\"group\": " + json_text(*found) + ", \"numbers\": [" + numbers + "]}" : std::string();
}

}  // namespace torchprof
