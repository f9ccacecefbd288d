#include "record/python/code_object.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace torchprof::python {
namespace {

constexpr int kUnit = 2;  // bytes of an instruction without its argument's extension: instructions are counted in these

// Reads a location table (CPython's Objects/locations.md): an entry for each run of instructions, in order.
//
//   1 kkkk lll, then what kind k needs      the run has lll + 1 units
//   0.......                                further bytes of the same entry
class Locations {
 public:
  explicit Locations(const PyCodeObject& code)
      : next_(reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(code.co_linetable))),
        end_(next_ + PyBytes_GET_SIZE(code.co_linetable)),
        line_(code.co_firstlineno) {}

  // The line of the unit with this number.
  int line_of(int64_t unit) {
    while (next_ < end_) {
      const int first = *next_++;
      const int kind = first >> 3 & 15;
      line_ += line_delta(kind);
      unit -= (first & 7) + 1;
      if (unit < 0) {
        return kind == kNone ? -1 : line_;
      }
      while (next_ < end_ && (*next_ & 0x80) == 0) {
        ++next_;
      }
    }
    return -1;
  }

 private:
  enum : int { kOneLine0 = 10, kOneLine2 = 12, kNoColumns = 13, kLong = 14, kNone = 15 };

  int line_delta(int kind) {
    if (kind == kNoColumns || kind == kLong) {
      const uint32_t value = varint();
      return (value & 1) != 0 ? -static_cast<int>(value >> 1) : static_cast<int>(value >> 1);
    }
    return kind >= kOneLine0 && kind <= kOneLine2 ? kind - kOneLine0 : 0;
  }

  // Six bits a byte, the lowest first; the seventh: there are more.
  uint32_t varint() {
    uint32_t value = 0;
    for (int shift = 0; next_ < end_ && shift < 32; shift += 6) {
      const uint32_t byte = *next_++;
      value |= (byte & 63) << shift;
      if ((byte & 64) == 0) {
        break;
      }
    }
    return value;
  }

  const uint8_t* next_;
  const uint8_t* const end_;
  int line_;
};

const char* first_instruction(const PyCodeObject& code) { return code.co_code_adaptive; }

void append_utf8(std::string& text, uint32_t character) {
  const auto add = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    add(character);
  } else if (character < 0x800) {
    add(0xC0 | character >> 6);
    add(0x80 | (character & 63));
  } else if (character >= 0xD800 && character < 0xE000) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", character);
    text += escaped;
  } else if (character < 0x10000) {
    add(0xE0 | character >> 12);
    add(0x80 | (character >> 6 & 63));
    add(0x80 | (character & 63));
  } else {
    add(0xF0 | character >> 18);
    add(0x80 | (character >> 12 & 63));
    add(0x80 | (character >> 6 & 63));
    add(0x80 | (character & 63));
  }
}

}  // namespace

bool has_begun(PyObject* executable, const char* instruction) {
  if (executable == nullptr || !PyCode_Check(executable)) {
    return false;
  }
  const auto& code = *reinterpret_cast<const PyCodeObject*>(executable);
  return instruction >= first_instruction(code) + static_cast<std::ptrdiff_t>(code._co_firsttraceable) * kUnit;
}

int line_of(const PyCodeObject& code, const char* instruction) {
  return Locations(code).line_of((instruction - first_instruction(code)) / kUnit);
}

std::string text_of(PyObject* unicode) {
  std::string text;
  if (unicode == nullptr || !PyUnicode_Check(unicode)) {
    return text;
  }
  const auto kind = PyUnicode_KIND(unicode);
  const void* const data = PyUnicode_DATA(unicode);
  const Py_ssize_t length = PyUnicode_GET_LENGTH(unicode);
  text.reserve(static_cast<size_t>(length));
  for (Py_ssize_t i = 0; i < length; ++i) {
    append_utf8(text, PyUnicode_READ(kind, data, i));
  }
  return text;
}

}  // namespace torchprof::python
