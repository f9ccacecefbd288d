// Pauses recording on the current thread. Pauses nest: the outermost counts.
//
// The kernels of fake tensors only compute what the real kernel would return. On the way they may allocate more or less than the real
// one and run other ops, so neither ops nor memory are recorded inside; afterwards, what they returned is reported.
//
// While a program is compiled, what runs is no work of the program: neither ops, calls nor allocations are recorded, but blocks from
// before that are freed are.
#pragma once

namespace torchprof {

inline thread_local int pause_depth = 0;
inline thread_local int compile_depth = 0;  // of the pauses above, those of a compiler

inline bool is_paused() { return pause_depth != 0; }
inline void pause_recording() { ++pause_depth; }
inline void resume_recording() { --pause_depth; }

inline bool is_compiling() { return compile_depth != 0; }
inline void begin_compiling() {
  pause_recording();
  ++compile_depth;
}
inline void end_compiling() {
  --compile_depth;
  resume_recording();
}

// An interrupt may have left recording paused.
inline void reset_pauses() { pause_depth = compile_depth = 0; }

}  // namespace torchprof
