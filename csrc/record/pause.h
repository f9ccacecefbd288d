// Kernels that only work out what they would return, as those of fake tensors do: they may allocate more on the way, or less,
// than the real one, and run other ops. While one is open on this thread, neither ops nor memory are recorded; afterwards,
// what it returned is reported. Kernels nest: only the outermost counts.
#pragma once

namespace torchprof {

inline thread_local int open_kernels = 0;

inline bool is_pretending() { return open_kernels != 0; }
inline void begin_kernel() { ++open_kernels; }
inline void end_kernel() { --open_kernels; }

}  // namespace torchprof
