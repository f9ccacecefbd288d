// name <-> id. Two small caches make a known name cost one comparison. The name of an operator stays at one address while it is
// registered, so its address is a good hash. The name of an autograd node is a new string every time, so its last characters are.
// The characters are compared in both cases, so a reused address does no harm.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

#include "trace/append_log.h"

namespace torchprof {

class StringTable {
 public:
  // `share`: what names count towards; nullptr: nothing. Where it is spent, a new name is as if there were no memory.
  explicit StringTable(Share* share = nullptr) : share_(share) {}

  uint32_t id(const char* name) {
    Recent& recent = recent_[(reinterpret_cast<uintptr_t>(name) >> 4) % kRecent];
    if (recent.address == name && std::strcmp(recent.text, name) == 0) {
      return recent.id;
    }
    const size_t length = std::strlen(name);
    Recent& alike = alike_[(length * 31 + end_of(name, length)) % kRecent];
    if (alike.text == nullptr || std::strcmp(alike.text, name) != 0) {
      const uint32_t id = this->id(std::string_view(name, length));
      alike = {name, strings_[id].c_str(), id};
    }
    recent = {name, alike.text, alike.id};
    return alike.id;
  }

  uint32_t id(std::string_view name) {
    const auto found = ids_.find(name);
    if (found != ids_.end()) {
      return found->second;
    }
    if (share_ != nullptr) {
      share_->take(kBytesOfName + static_cast<int64_t>(name.size()));
    }
    const uint32_t id = size();
    strings_.emplace_back(name);
    try {
      ids_.emplace(strings_.back(), id);
    } catch (...) {
      strings_.pop_back();
      throw;
    }
    characters_ += name.size();
    return id;
  }

  // The id of a name that is known, else `otherwise`.
  uint32_t find(std::string_view name, uint32_t otherwise) const {
    const auto found = ids_.find(name);
    return found != ids_.end() ? found->second : otherwise;
  }

  const std::string& operator[](uint32_t id) const { return strings_[id]; }
  size_t characters() const { return characters_; }
  uint32_t size() const { return static_cast<uint32_t>(strings_.size()); }

 private:
  static constexpr size_t kRecent = 512;

  // "...: MulBackward0", "...: AddmmBackward0": the 8 characters that are 18 before the end distinguish them.
  static uint64_t end_of(const char* name, size_t length) {
    uint64_t end = 0;
    if (length >= 18) {
      std::memcpy(&end, name + length - 18, sizeof end);
    }
    return end * 0x9E3779B97F4A7C15u >> 40;
  }

  struct Recent {
    const char* address = nullptr;
    const char* text = nullptr;
    uint32_t id = 0;
  };

  static constexpr int64_t kBytesOfName = 96;

  Share* share_;
  size_t characters_ = 0;
  std::array<Recent, kRecent> recent_{};  // by address
  std::array<Recent, kRecent> alike_{};   // by length and end
  std::deque<std::string> strings_;       // a deque, so that the views in ids_ stay valid
  std::unordered_map<std::string_view, uint32_t> ids_;
};

}  // namespace torchprof
