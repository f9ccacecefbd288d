// Pauses recording on the current thread. Pauses nest: the outermost counts.
//
// The kernels of fake tensors only compute what the real kernel would return. On the way they may allocate more or less than the real
// one and run other ops, so neither ops nor memory are recorded inside; afterwards, what they returned is reported.
//
// While a program is compiled, what runs is no work of the program: neither ops, calls nor allocations are recorded, but blocks from
// before that are freed are.
#pragma once

namespace torchprof {

struct Pauses {
  int depth = 0;
  int of_compilers = 0;
};

// Every callback asks for it first.
#if defined(__linux__)
[[gnu::tls_model("initial-exec")]]
#endif
inline thread_local Pauses pauses;

inline bool is_paused() { return pauses.depth != 0; }
inline void pause_recording() { ++pauses.depth; }
inline void resume_recording() { --pauses.depth; }

inline bool is_compiling() { return pauses.of_compilers != 0; }
inline void begin_compiling() {
  pause_recording();
  ++pauses.of_compilers;
}
inline void end_compiling() {
  --pauses.of_compilers;
  resume_recording();
}

// An interrupt may have left recording paused.
inline void reset_pauses() { pauses = {}; }

}  // namespace torchprof
