#include "meta_allocator.h"

#include "clock.h"
#include "thread_slot.h"

namespace torchprof {
namespace {

// What stands for a block. Its address names the block: read_storage in tensor_reader.h finds it as the context of the
// storage's data.
struct Token {
  int64_t bytes;
};

void report(const Token* token, int64_t bytes) {
  const Writing writing;
  if (ThreadLog* const log = writing.log()) {
    try {
      log->memory_event(ticks(), reinterpret_cast<uint64_t>(token), bytes, static_cast<int8_t>(c10::DeviceType::Meta), -1);
    } catch (...) {
    }
  }
}

void release(void* context) {
  const Token* const token = static_cast<Token*>(context);
  report(token, -token->bytes);
  delete token;
}

// Outlives every storage it made: those keep a pointer to it.
class Counting final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(c10::DeviceType::Meta);
    if (bytes == 0) {
      return {nullptr, device};
    }
    auto* const token = new Token{static_cast<int64_t>(bytes)};
    report(token, token->bytes);
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
