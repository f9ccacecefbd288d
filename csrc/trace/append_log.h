// An append-only list in chunks. Rows keep their address, appending increments a pointer, and the memory of each chunk counts
// towards a budget that all logs of a recording share. Rows that do not fit are counted, not stored.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchprof {

// The bytes that a recording may still allocate. Used once per chunk, never per row.
class Budget {
 public:
  explicit Budget(int64_t bytes) : left_(bytes) {}

  bool take(int64_t bytes) {
    if (left_.fetch_sub(bytes, std::memory_order_relaxed) >= bytes) {
      return true;
    }
    release(bytes);
    return false;
  }
  void release(int64_t bytes) { left_.fetch_add(bytes, std::memory_order_relaxed); }
  int64_t left() const { return left_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> left_;
};

template <typename Row>
class AppendLog {
  static_assert(std::is_trivially_copyable_v<Row>);

 public:
  explicit AppendLog(Budget& budget) : budget_(budget) {}
  AppendLog(const AppendLog&) = delete;
  AppendLog& operator=(const AppendLog&) = delete;
  ~AppendLog() {
    for (const Chunk& chunk : chunks_) {
      release(chunk);
    }
  }

  // Room for one row, uninitialized; nullptr when the budget is spent.
  Row* append() {
    if (next_ == end_ && !grow()) {
      ++dropped_;
      return nullptr;
    }
    ++size_;
    return next_++;
  }

  uint32_t size() const { return size_; }
  uint64_t dropped() const { return dropped_; }
  int64_t bytes() const {
    int64_t bytes = 0;
    for (const Chunk& chunk : chunks_) {
      bytes += static_cast<int64_t>(chunk.bytes);
    }
    return bytes;
  }

  // Calls visit(rows, count) for every chunk in order and frees each chunk after its visit, so that a consumer that copies never
  // holds the whole log twice. Also resets the count of dropped rows.
  template <typename Visit>
  void drain(Visit visit) {
    for (const Chunk& chunk : std::exchange(chunks_, {})) {
      const size_t unused = chunk.rows + chunk.count == end_ ? static_cast<size_t>(end_ - next_) : 0;
      visit(chunk.rows, chunk.count - unused);
      release(chunk);
    }
    next_ = end_ = nullptr;
    size_ = 0;
    dropped_ = 0;
  }

 private:
  struct Chunk {
    Row* rows;
    size_t count;
    size_t bytes;
  };

  // The first chunk is small, so that a short recording touches little memory. The largest is one huge page, so that a long
  // recording has one page fault where it would have 512.
  static constexpr size_t kFirst = size_t{1} << 15;
  static constexpr size_t kLargest = size_t{1} << 21;

  [[gnu::noinline]] bool grow() {
    const size_t bytes = chunks_.empty() ? kFirst : std::min(chunks_.back().bytes * 2, kLargest);
    if (size_ > UINT32_MAX - bytes / sizeof(Row) || !budget_.take(static_cast<int64_t>(bytes))) {
      return false;
    }
    void* memory = bytes == kLargest ? map_huge_page() : std::malloc(bytes);
    if (memory == nullptr) {
      budget_.release(static_cast<int64_t>(bytes));
      return false;
    }
    const size_t count = bytes / sizeof(Row);
    next_ = static_cast<Row*>(memory);
    end_ = next_ + count;
    chunks_.push_back({next_, count, bytes});
    return true;
  }

  // A separate mapping, cut to the alignment that a huge page needs. With memory from malloc, the program would keep memory that
  // is marked for huge pages after the recording.
  static void* map_huge_page() {
    void* mapped = mmap(nullptr, 2 * kLargest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      return nullptr;
    }
    char* const begin = static_cast<char*>(mapped);
    char* const aligned = begin + (kLargest - reinterpret_cast<uintptr_t>(begin) % kLargest) % kLargest;
    if (aligned != begin) {
      munmap(begin, static_cast<size_t>(aligned - begin));
    }
    munmap(aligned + kLargest, static_cast<size_t>(begin + kLargest - aligned));
#ifdef MADV_HUGEPAGE
    madvise(aligned, kLargest, MADV_HUGEPAGE);
#endif
    return aligned;
  }

  void release(const Chunk& chunk) {
    if (chunk.bytes == kLargest) {
      munmap(chunk.rows, chunk.bytes);
    } else {
      std::free(chunk.rows);
    }
    budget_.release(static_cast<int64_t>(chunk.bytes));
  }

  Row* next_ = nullptr;
  Row* end_ = nullptr;
  uint32_t size_ = 0;
  uint64_t dropped_ = 0;
  Budget& budget_;
  std::vector<Chunk> chunks_;
};

}  // namespace torchprof
