// The stacks of one thread as a tree, made while they are read. It knows nothing of Python: what a frame is, a function says that is
// given with the frames. Functions and nodes are known by what they are, frames by the address of their instruction, which may be
// that of another function later: see `epoch`.
//
//   main.py:9 ─► train.py:31 ─► model.py:5 ─► linear.py:134         instruction ─► place, a line of a function
//                           │             └─► functional.py:88      node and place ─► node
//                           └─► optimizer.py:484
//
// The tree of a thread lives as long as the recording; the logs of its steps each have the rows that it got meanwhile.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "trace/append_log.h"
#include "trace/flat_map.h"
#include "trace/rows.h"
#include "trace/string_table.h"

namespace torchprof {

// The latest instruction of a frame, and the object that it is part of.
struct FrameRead {
  const char* instruction;
  void* executable;
};

// What a frame is.
struct Place {
  std::string function;
  std::string file;
  int32_t first_line = 0;
  int32_t line = kNoRow;
};

// The rows of functions and nodes that a tree gets while a log is written.
struct TreeRows {
  explicit TreeRows(Budget& budget) : functions(budget), nodes(budget) {}

  AppendLog<Function> functions;
  AppendLog<Stack> nodes;
};

class CallTree {
 public:
  // False: no function runs there, and the frame is left out.
  using Describe = bool (*)(const FrameRead&, Place&);

  CallTree(Budget& budget, int32_t number) : budget_(budget), number_(number) {}
  ~CallTree() { budget_.release(taken_); }
  CallTree(const CallTree&) = delete;
  CallTree& operator=(const CallTree&) = delete;

  std::vector<FrameRead> frames;  // of the stack that is read, the innermost first
  // What the thread is for Python, where that lasts as long as the process; nullptr: it is looked up every time.
  const void* lasting_thread = nullptr;
  bool is_thread_known = false;

  // Among the trees of a recording.
  int32_t number() const { return number_; }
  int32_t nodes() const { return n_nodes_; }

  // The node of the stack in `frames`; kNoRow: it is empty, or the budget is spent, as is_full() tells. `is_cut`: there are more
  // frames around these. `epoch`: another one than before says that a code object has ended, and another one may be where it was.
  // `same`: so many of the outermost frames are those of the last time.
  int32_t node(bool is_cut, uint64_t epoch, Describe describe, TreeRows& rows, StringTable& strings, size_t same = 0) {
    is_full_ = false;
    if (frames.empty()) {
      return kNoRow;
    }
    if (epoch != epoch_) {
      epoch_ = epoch;
      give_back(places_.size());
      places_.clear();
      latest_.clear();
    }
    const size_t most = is_cut == is_cut_ ? std::min(frames.size(), latest_.size()) : 0;
    same = std::min(same, most);
    if (same < most) {
      const FrameRead* frame = frames.data() + frames.size() - 1 - same;
      while (same < most && latest_[same].instruction == frame->instruction) {
        ++same;
        --frame;
      }
    }
    is_cut_ = is_cut;
    int32_t node = same != 0 ? latest_[same - 1].node : is_cut ? outermost_cut(rows, strings) : kNoRow;
    latest_.resize(same);
    for (size_t i = frames.size() - same; i-- > 0 && !is_full_;) {
      node = child(node, frames[i], describe, rows, strings);
      latest_.push_back({frames[i].instruction, node});
    }
    return is_full_ ? kNoRow : node;
  }

  bool is_full() const { return is_full_; }

 private:
  static constexpr int64_t kBytesOfKey = 64;  // of a map, at most, for each of its keys
  static constexpr int32_t kLeftOut = -2;
  static constexpr const char* kMoreFrames = "... more frames";
  static constexpr auto kMostNodes = static_cast<int32_t>(kUnknownStack);

  struct Latest {
    const char* instruction;
    int32_t node;
  };

  // What stands for the frames around those that were read.
  int32_t outermost_cut(TreeRows& rows, StringTable& strings) {
    return node_of(kNoRow, place_of({kMoreFrames, {}, kNoRow, kNoRow}, rows, strings), rows);
  }

  int32_t child(int32_t parent, const FrameRead& frame, Describe describe, TreeRows& rows, StringTable& strings) {
    const auto key = reinterpret_cast<uint64_t>(frame.instruction);
    int32_t place = kLeftOut;
    if (const int32_t* const known = places_.find(key)) {
      place = *known;
    } else if (Place found; describe(frame, found)) {
      place = place_of(found, rows, strings);
      remember(key, place);
    } else {
      remember(key, kLeftOut);
    }
    return place == kLeftOut ? parent : node_of(parent, place, rows);
  }

  void remember(uint64_t key, int32_t place) {
    if (take()) {
      places_.try_emplace(key, place);
    }
  }

  int32_t place_of(const Place& place, TreeRows& rows, StringTable& strings) {
    const std::string text = place.file + '\0' + place.function + '\0' + std::to_string(place.first_line);
    auto known = functions_.find(text);
    if (known == functions_.end()) {
      Function* const row = take() ? rows.functions.room() : nullptr;
      if (row == nullptr) {
        is_full_ = true;
        return kNoRow;
      }
      const int32_t file = place.file.empty() ? kNoRow : static_cast<int32_t>(strings.id(std::string_view(place.file)));
      *row = {strings.id(std::string_view(place.function)), file, place.first_line};
      known = functions_.emplace(text, static_cast<uint32_t>(functions_.size())).first;
      rows.functions.keep();
    }
    const uint64_t key = key_of(static_cast<int32_t>(known->second), place.line);
    if (const int32_t* const found = place_ids_.find(key)) {
      return *found;
    }
    const auto number = static_cast<int32_t>(places_found_.size());
    places_found_.push_back({known->second, place.line});
    place_ids_.try_emplace(key, number);  // where this throws, the place gets another number next time
    return number;
  }

  int32_t node_of(int32_t parent, int32_t place, TreeRows& rows) {
    if (place == kNoRow) {
      return kNoRow;
    }
    const uint64_t key = key_of(parent, place);
    if (const int32_t* const known = node_ids_.find(key)) {
      return *known;
    }
    Stack* const row = n_nodes_ < kMostNodes && take() ? rows.nodes.room() : nullptr;
    if (row == nullptr) {
      is_full_ = true;
      return kNoRow;
    }
    *row = {parent, places_found_[static_cast<size_t>(place)].function, places_found_[static_cast<size_t>(place)].line};
    node_ids_.try_emplace(key, n_nodes_);
    rows.nodes.keep();
    return n_nodes_++;
  }

  static uint64_t key_of(int32_t high, int32_t low) {
    return static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 | static_cast<uint32_t>(low);
  }

  bool take() {
    if (!budget_.take(kBytesOfKey)) {
      return false;
    }
    taken_ += kBytesOfKey;
    return true;
  }

  void give_back(size_t keys) {
    const int64_t bytes = std::min(taken_, static_cast<int64_t>(keys) * kBytesOfKey);
    budget_.release(bytes);
    taken_ -= bytes;
  }

  struct PlaceFound {
    uint32_t function;
    int32_t line;
  };

  Budget& budget_;
  const int32_t number_;
  int64_t taken_ = 0;
  uint64_t epoch_ = 0;
  bool is_full_ = false;
  bool is_cut_ = false;
  int32_t n_nodes_ = 0;
  std::vector<Latest> latest_;                           // the stack that was read last, the outermost frame first
  FlatMap<int32_t> places_;                              // by instruction
  std::unordered_map<std::string, uint32_t> functions_;  // by what they are
  std::vector<PlaceFound> places_found_;
  FlatMap<int32_t> place_ids_;  // by function and line
  FlatMap<int32_t> node_ids_;   // by parent and place
};

}  // namespace torchprof
