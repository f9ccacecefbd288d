// `operator new` of the whole process, loaded before all others: it fails once or from some allocation on, for what one library
// allocates. What libstdc++ allocates counts as its caller's.
//
//   torchprof/_C.so ─► operator new ─► malloc            the n-th: std::bad_alloc
//                 └─► std::string ─► operator new
//   libtorch.so     ─► operator new ─► malloc            not counted
#include <dlfcn.h>
#include <link.h>
#include <unwind.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

struct Range {
  uintptr_t begin = 0, end = 0;
  bool contains(uintptr_t address) const { return begin <= address && address < end; }
};

Range library, standard;           // whose allocations fail, and libstdc++
std::atomic<bool> is_on{false};    // counting
std::atomic<int64_t> left{0};      // allocations until one fails; 0: none does
std::atomic<int64_t> count{0};     // of the library, since this was switched on
std::atomic<bool> goes_on{false};  // whether all fail after that one

Range range_of(const char* name) {
  struct Search {
    const char* name;
    Range found;
  } search{name, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        if (std::strstr(info->dlpi_name, search.name) == nullptr) {
          return 0;
        }
        uintptr_t end = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          end = std::max<uintptr_t>(end, info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz);
        }
        search.found = {info->dlpi_addr, info->dlpi_addr + end};
        return 1;
      },
      &search);
  return search.found;
}

// The first frame that is not in libstdc++.
uintptr_t caller() {
  uintptr_t found = 0;
  _Unwind_Backtrace(
      [](_Unwind_Context* context, void* data) {
        const uintptr_t address = _Unwind_GetIP(context);
        const auto own = reinterpret_cast<uintptr_t>(&range_of);
        const bool is_here = address - own + (1 << 16) < (1 << 17);
        if (is_here || standard.contains(address)) {
          return _URC_NO_REASON;
        }
        *static_cast<uintptr_t*>(data) = address;
        return _URC_END_OF_STACK;
      },
      &found);
  return found;
}

void* allocate(size_t bytes, void* from, size_t alignment = 0) {
  if (is_on.load(std::memory_order_relaxed)) {
    const auto address = reinterpret_cast<uintptr_t>(from);
    if (library.contains(address) || (standard.contains(address) && library.contains(caller()))) {
      ++count;
      const int64_t before = left.load();
      if (before > 0 && --left == 0) {
        left = goes_on ? 1 : 0;
        return nullptr;
      }
    }
  }
  bytes = bytes != 0 ? bytes : 1;
  return alignment != 0 ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment) : std::malloc(bytes);
}

void* or_throw(void* memory) {
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

}  // namespace

#define FROM __builtin_return_address(0)
void* operator new(size_t bytes) { return or_throw(allocate(bytes, FROM)); }
void* operator new[](size_t bytes) { return or_throw(allocate(bytes, FROM)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, FROM); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, FROM); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return or_throw(allocate(bytes, FROM, static_cast<size_t>(alignment)));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return or_throw(allocate(bytes, FROM, static_cast<size_t>(alignment)));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

extern "C" {

// Counts from now on what the library whose path has this in it allocates, and lets the n-th fail; 0: none. `all_after`: those after
// it as well.
void fail_allocation(const char* name, int64_t n, bool all_after) {
  library = range_of(name);
  standard = range_of("libstdc++");
  count = 0;
  goes_on = all_after;
  left = n;
  is_on = true;
}

// No more. How many there were.
int64_t end_failing() {
  is_on = false;
  left = 0;
  return count;
}
}
