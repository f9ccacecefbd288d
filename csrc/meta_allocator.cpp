#include "meta_allocator.h"

#include <atomic>

#include "clock.h"
#include "thread_slot.h"

namespace torchprof {
namespace {

void report(uint64_t token, int64_t bytes) {
  const Writing writing;
  if (ThreadLog* const log = writing.log()) {
    try {
      log->allocation(ticks(), token, bytes, static_cast<int8_t>(c10::DeviceType::Meta), -1);
    } catch (...) {
    }
  }
}

struct Token {
  uint64_t id;
  int64_t bytes;
};

void release(void* context) {
  const Token* const token = static_cast<Token*>(context);
  report(token->id, -token->bytes);
  delete token;
}

// Outlives every storage it made: those keep a pointer to it.
class Counting final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    static std::atomic<uint64_t> next{1};
    const c10::Device device(c10::DeviceType::Meta);
    if (bytes == 0) {
      return {nullptr, device};
    }
    auto* const token = new Token{next.fetch_add(1, std::memory_order_relaxed), static_cast<int64_t>(bytes)};
    report(token->id, token->bytes);
    return {nullptr, token, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {}
};

Counting& counting() {
  static auto* const instance = new Counting;
  return *instance;
}

}  // namespace

MetaAllocator::MetaAllocator() : replaced_(c10::GetAllocator(c10::DeviceType::Meta)) {
  c10::SetAllocator(c10::DeviceType::Meta, &counting());
}

MetaAllocator::~MetaAllocator() {
  if (c10::GetAllocator(c10::DeviceType::Meta) == &counting()) {
    c10::SetAllocator(c10::DeviceType::Meta, replaced_);
  }
}

}  // namespace torchprof
