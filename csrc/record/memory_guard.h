// Keeps memory as it is now: copies a storage just before the first op that writes to it, and puts the copies back. What no op writes
// is not copied. A callback of at::RecordFunction looks at the arguments that an op will write to, on every thread.
//
// It cannot see writes that go past the dispatcher, such as those of a kernel that is called through pybind, of NumPy on the same
// memory, or of code that torch.compile generated, nor those of a custom op whose schema does not name them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace torchprof {

class MemoryGuard {
 public:
  MemoryGuard() = default;
  ~MemoryGuard() { stop(); }
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;

  // The row of this storage, which is added when it is new. Before start().
  size_t add(const c10::Storage& storage);
  uint64_t bytes(size_t row) const { return blocks_[row].end - blocks_[row].begin; }
  // Copies it now, for what may be written unseen.
  void copy(size_t row);

  void start();
  void stop();  // when it returns, no thread copies any more

  // Puts back the contents and the size of every storage. After stop().
  void restore();

  // What happened to the contents of a storage, after restore().
  const std::string& failure(size_t row) const { return blocks_[row].failure; }
  // False where something may have been written that no op announced.
  bool is_sure(size_t row) const { return blocks_[row].named || blocks_[row].copied || blocks_[row].begin == 0; }

  // For the callback: an op is about to write, or to change the metadata of a tensor on this storage.
  void before_write(c10::StorageImpl& storage, bool contents);

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  struct Block {
    c10::Storage storage;
    uint64_t begin = 0;
    uint64_t end = 0;
    bool named = false;  // as an argument that an op writes
    bool copied = false;
    std::unique_ptr<void, Free> on_host{};
    at::Tensor on_device{};
    std::string failure{};
  };
  struct Range {  // of a block that has memory; sorted by begin
    uint64_t begin, end, last_end;
    size_t row;
  };

  static void copy(Block& block);
  static void restore(Block& block);

  std::vector<Block> blocks_;
  std::unordered_map<const c10::StorageImpl*, size_t> rows_;
  std::vector<Range> ranges_;
  bool started_ = false;
};

}  // namespace torchprof
