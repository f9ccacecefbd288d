// The names of user ranges that are opened around calls of functions of PyTorch's: see FunctionRanges.
#pragma once

namespace torchprof {

inline constexpr char kLoaderRange[] = "iter(DataLoader)";
inline constexpr char kBackwardRange[] = "run_backward(autograd)";

}  // namespace torchprof
