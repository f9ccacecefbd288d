// Pauses recording on the current thread. The kernels of fake tensors only compute what the real kernel would return. On the way they
// may allocate more or less than the real one and run other ops, so neither ops nor memory are recorded inside; afterwards, what they
// returned is reported. Pauses nest: the outermost counts.
#pragma once

namespace torchprof {

inline thread_local int pause_depth = 0;

inline bool is_paused() { return pause_depth != 0; }
inline void pause_recording() { ++pause_depth; }
inline void resume_recording() { --pause_depth; }

}  // namespace torchprof
