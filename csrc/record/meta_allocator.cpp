#include "record/meta_allocator.h"

#include <atomic>
#include <new>

#include "record/pause.h"
#include "record/stacks.h"
#include "record/thread_slot.h"
#include "trace/clock.h"

namespace torchprof {
namespace {

// Stands for a block. Its address identifies the block: read_storage() in tensor_reader.h finds it as the context of the storage's data.
struct Token {
  int64_t bytes;
  uint64_t recording;  // the one that recorded its allocation, which alone records its free; kNone: none did
};

constexpr uint64_t kNone = 0;
constexpr uint64_t kEarlier = ~uint64_t{0};
std::atomic<uint64_t> current_recording{kNone};

void report(const Token* token, int64_t bytes, bool from_kernel = false) noexcept {
  const LogWriter writer(Event::kAllocation);
  if (ThreadLog* const log = writer.log()) {
    log->memory_event(ticks(), reinterpret_cast<uint64_t>(token), bytes, static_cast<int8_t>(c10::DeviceType::Meta), -1,
                      bytes > 0 && !from_kernel ? stack_of_memory(*log) : kStackOfOp, from_kernel);
  }
}

// nullptr: there is no memory for it, and the block is not recorded. The program's own tensor needs none.
Token* new_token(int64_t bytes) noexcept {
  auto* const token = new (std::nothrow) Token{bytes, kNone};
  if (token == nullptr) {
    const LogWriter writer(Event::kAllocation);
    if (ThreadLog* const log = writer.log()) {
      log->memory_events.drop();
    }
  }
  return token;
}

void release(void* context) {
  const Token* const token = static_cast<Token*>(context);
  if (token->recording == current_recording.load(std::memory_order_relaxed)) {
    report(token, -token->bytes);
  }
  delete token;
}

// Never destroyed, because storages keep a pointer to it.
class Counting final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(c10::DeviceType::Meta);
    if (bytes == 0) {
      return {nullptr, device};
    }
    Token* const token = new_token(static_cast<int64_t>(bytes));
    if (token == nullptr) {
      return {nullptr, device};
    }
    if (!is_paused()) {
      token->recording = current_recording.load(std::memory_order_relaxed);
      report(token, token->bytes);
    }
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
  current_recording.fetch_add(1, std::memory_order_relaxed);
  c10::SetAllocator(c10::DeviceType::Meta, &counting());
}

MetaAllocator::~MetaAllocator() {
  if (c10::GetAllocator(c10::DeviceType::Meta) == &counting()) {
    c10::SetAllocator(c10::DeviceType::Meta, replaced_);
  }
}

void report_result(c10::StorageImpl& storage) {
  if (is_paused()) {
    return;
  }
  const c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  if (data.get_context() == nullptr && data.get() == nullptr && storage.device().is_meta()) {
    // It was created without a size and then resized, which a meta storage does without its allocator.
    if (const auto bytes = storage.sym_nbytes().maybe_as_int(); bytes.value_or(0) != 0) {
      if (Token* const token = new_token(*bytes)) {
        storage.set_data_ptr_noswap({nullptr, token, &release, storage.device()});
      }
    }
  }
  if (data.get_deleter() != &release) {
    return;
  }
  auto* const token = static_cast<Token*>(data.get_context());
  if (token->recording == kNone) {
    token->recording = current_recording.load(std::memory_order_relaxed);
    report(token, token->bytes, true);
  }
}

void resize_on_meta(c10::StorageImpl& storage, size_t bytes) {
  storage.set_data_ptr_noswap({nullptr, storage.device()});
  storage.set_nbytes(bytes);
  storage.set_data_ptr_noswap(c10::GetAllocator(c10::DeviceType::Meta)->allocate(bytes));
}

void take_as_earlier(c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  if (data.get_deleter() == &release) {
    static_cast<Token*>(data.get_context())->recording = kEarlier;
  }
}

void report_workspace(int64_t bytes) {
  if (is_paused()) {
    return;
  }
  const Token token{bytes, current_recording.load(std::memory_order_relaxed)};
  report(&token, bytes, true);
  for (const auto allocated_at = ticks(); ticks() == allocated_at;) {  // at the same tick it would have no duration
  }
  report(&token, -bytes, true);
}

bool adds_gradients() {
  const LogWriter writer;
  const ThreadLog* const log = writer.log();
  // engine -> aten::add -> the op that PyTorch runs to call a kernel written in Python
  return log != nullptr && log->open_name(1) == "aten::add" &&
         log->open_name(2).starts_with("autograd::engine::evaluate_function");
}

}  // namespace torchprof
