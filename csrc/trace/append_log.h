// An append-only list in chunks. Rows keep their address, appending increments a pointer, and the memory of each chunk counts
// towards a budget that all logs of a recording share. Rows that do not fit, or for which there is no memory, are counted, not stored.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
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

// What somebody took of a budget besides rows, given back when it ends.
class Share {
 public:
  explicit Share(Budget& budget) : budget_(budget) {}
  ~Share() { give_back(); }
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  // Where the budget is spent, this is as if there were no memory.
  void take(int64_t bytes) {
    if (!budget_.take(bytes)) {
      throw std::bad_alloc();
    }
    taken_ += bytes;
  }
  void give_back() { budget_.release(std::exchange(taken_, 0)); }

 private:
  Budget& budget_;
  int64_t taken_ = 0;
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

  // Room for one row, uninitialized; nullptr when the budget is spent, and the row is dropped.
  Row* append() noexcept {
    Row* const row = room();
    if (row != nullptr) {
      keep();
    }
    return row;
  }

  // The same in two steps, for a row of which something may fail before it is whole: it is there when it was kept.
  Row* room() noexcept {
    if (next_ == end_ && !grow()) {
      ++dropped_;
      return nullptr;
    }
    return next_;
  }
  void keep() noexcept {
    ++size_;
    ++next_;
  }

  // A row is lost for another reason.
  void drop() noexcept { ++dropped_; }

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
    const Row* const end = std::exchange(end_, nullptr);
    const auto unused = static_cast<size_t>(end - std::exchange(next_, nullptr));
    size_ = 0;
    dropped_ = 0;
    struct Rest {  // also where a visit throws
      AppendLog& log;
      std::vector<Chunk> chunks;
      ~Rest() {
        for (const Chunk& chunk : chunks) {
          log.release(chunk);
        }
      }
    } rest{*this, std::exchange(chunks_, {})};
    std::reverse(rest.chunks.begin(), rest.chunks.end());
    for (; !rest.chunks.empty(); rest.chunks.pop_back()) {
      const Chunk chunk = rest.chunks.back();
      visit(chunk.rows, chunk.count - (chunk.rows + chunk.count == end ? unused : 0));
      release(chunk);
    }
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

  // Rows are numbered by int32_t.
  [[gnu::noinline]] bool grow() noexcept {
    const size_t bytes = chunks_.empty() ? kFirst : std::min(chunks_.back().bytes * 2, kLargest);
    if (size_ > INT32_MAX - bytes / sizeof(Row) || !has_room_for_a_chunk() || !budget_.take(static_cast<int64_t>(bytes))) {
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

  bool has_room_for_a_chunk() noexcept {
    try {
      if (chunks_.size() == chunks_.capacity()) {
        chunks_.reserve(2 * chunks_.size() + 1);
      }
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
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
