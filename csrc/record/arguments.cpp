#include "record/arguments.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>

#include "record/tensor_reader.h"

namespace torchprof {
namespace {

void write(const c10::IValue& value, std::string& text);

void write_list(const c10::IValue* values, size_t count, std::string& text) {
  text += '[';
  for (size_t i = 0; i < count; ++i) {
    if (i != 0) {
      text += ", ";
    }
    write(values[i], text);
  }
  text += ']';
}

// A string is written if it needs no escapes, as names of modes do.
void write_string(const std::string& value, std::string& text) {
  const bool plain = std::all_of(value.begin(), value.end(), [](char each) { return std::isalnum(each) != 0 || each == '_'; });
  text += plain ? '"' + value + '"' : "null";
}

// Values that JSON cannot express, such as generators and devices, are null: no FLOP formula uses them.
void write(const c10::IValue& value, std::string& text) {
  if (value.isTensor()) {
    text += is_readable(value.unsafeToTensorImpl()) ? "{}" : "null";
  } else if (value.isBool()) {
    text += value.toBool() ? "true" : "false";
  } else if (value.isInt()) {
    text += std::to_string(value.toInt());
  } else if (value.isDouble() && std::isfinite(value.toDouble())) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", value.toDouble());
    text += digits;
  } else if (value.isString()) {
    write_string(value.toStringRef(), text);
  } else if (value.isList()) {
    const c10::ArrayRef<c10::IValue> elements = value.toListRef();
    write_list(elements.data(), elements.size(), text);
  } else {
    text += "null";
  }
}

}  // namespace

// The count is 0 for a range, which may have inputs all the same.
c10::ArrayRef<const c10::IValue> arguments_on_stack(const at::RecordFunction& function, size_t count) {
  const c10::ArrayRef<const c10::IValue> stack = function.inputs();
  return count == 0 && !function.operator_schema() ? stack : stack.slice(stack.size() - count);
}

std::string arguments_text(const c10::IValue* values, size_t count) {
  std::string text;
  write_list(values, count, text);
  return text;
}

}  // namespace torchprof
