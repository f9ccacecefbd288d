// The enums and flags of the columns in rows.h. Their numbers are part of the file format: torchprof/trace/schema.py has the same.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchprof {

inline constexpr int32_t kNoRow = -1;              // a row number where there is no row
inline constexpr int64_t kNever = -1;              // a time that was not seen
inline constexpr uint32_t kNoName = UINT32_MAX;    // a row of strings where there is no name
inline constexpr uint16_t kNoThread = UINT16_MAX;  // a row of threads where there is no thread

// MemoryEvent::stack
inline constexpr uint32_t kStackOfOp = 0xFFFFFF;     // it is the stack of the op; of none, where there is no op
inline constexpr uint32_t kUnknownStack = 0xFFFFFE;  // the rows of stacks are below

// Op::scope is an at::RecordScope. These are used here.
inline constexpr uint8_t kFunctionScope = 0;
inline constexpr uint8_t kBackwardScope = 1;
inline constexpr uint8_t kUserScope = 7;

// Op::flags
inline constexpr uint8_t kAttributed = 1;  // module_call is the call that the op did work for, not the call that it ran in
inline constexpr uint8_t kTruncated = 2;   // some of its tensors did not fit the budget
inline constexpr uint8_t kWrapper = 4;     // an op inside it did the work, so its bytes are not counted again
inline constexpr uint8_t kNested = 8;      // its FLOPs are not counted: an op around it, or inside it, has them already
inline constexpr uint8_t kPhaseShift = 4;  // the upper four bits are its Phase
// The same bits while recording, until mark_nested() sets them. Of an op that has a formula and was given tensors with tangents, of
// forward-mode AD: what runs inside it above the kernels computes the tangents, and counts beside it.
inline constexpr uint8_t kHasTangents = 4;
inline constexpr uint8_t kBelowAutograd = 8;  // of an op inside such an one: it does the work of that op

// What a training step was doing.
enum class Phase : uint8_t {
  kOther = 0,
  kForward = 1,
  kRecomputation = 2,  // forward that activation checkpointing runs again inside a backward pass
  kBackward = 3,
  kOptimizer = 4,
  kData = 5,  // the program waits for a DataLoader
};
inline constexpr size_t kPhases = 6;

// ModuleCall::flags
inline constexpr uint8_t kRaised = 1;       // forward raised an exception
inline constexpr uint8_t kMoreTensors = 2;  // some tensors were not recorded: they exceeded the budget or the limit per call
inline constexpr uint8_t kReturnedSequence = 4;  // it returned a tuple or a list
inline constexpr uint8_t kRecomputed = 8;        // it ran inside a backward pass
inline constexpr uint8_t kCompiled = 16;    // compiled code began in it, and not in a call inside; what runs there is not seen
inline constexpr uint8_t kLoadedData = 32;  // it ran inside a DataLoader

// Allocation::uses
inline constexpr uint16_t kParameter = 1;          // a parameter of the model
inline constexpr uint16_t kBuffer = 2;             // a buffer of the model
inline constexpr uint16_t kGradient = 4;           // accumulated by autograd and kept, or in .grad of a parameter
inline constexpr uint16_t kModuleInput = 8;        // an input of an outermost module call
inline constexpr uint16_t kModuleOutput = 16;      // an output of an outermost module call
inline constexpr uint16_t kReadByForward = 32;     // an input of a forward op
inline constexpr uint16_t kReadByBackward = 64;    // an input of a backward or recomputed op
inline constexpr uint16_t kReadByOptimizer = 128;  // an input of an op of an optimizer
inline constexpr uint16_t kHeldAfterCall = 256;    // not freed when the outermost call or op that allocated it had ended
inline constexpr uint16_t kSharded = 512;          // of the model, and every rank holds a part of it

// MemoryEvent::bytes of a free
inline constexpr int64_t kUnknownFree = INT64_MIN;

// BlockMet::ends: the memory that is freed when the storage ends.
enum class Ends : uint8_t {
  kNothing = 0,  // that of others, who report it
  kItself = 1,   // what was met with it, if no other storage was met there
  kAround = 2,   // all that is mapped, and it may be a part of that
};

// Tensor::device_type
inline constexpr int8_t kMetaDevice = 14;  // c10::DeviceType::Meta: of meta and of fake tensors

// Tensor::flags
inline constexpr uint8_t kNoData = 1;       // meta or fake; `storage` still identifies the block
inline constexpr uint8_t kSymbolic = 2;     // some sizes are symbolic: kUnknownSize or kRaggedSize
inline constexpr uint8_t kNoStorage = 4;    // opaque: storage and storage_bytes are 0
inline constexpr uint8_t kTransformed = 8;  // was inside wrappers of torch.func: shape and bytes are those inside, as in memory
inline constexpr uint8_t kNotDense = 16;    // sparse or nested: `bytes` says what its elements take
inline constexpr uint8_t kWrapperSubclass = 32;  // a subclass around other tensors: `bytes` says what these take
inline constexpr uint8_t kObject = 64;     // no tensor, but an object: `storage` is a row of strings, the name of its class
inline constexpr uint8_t kInObject = 128;  // a module was given or returned it inside an object that is no container

// Tensor::bytes
inline constexpr int64_t kUnknownBytes = -1;

// Sizes in shapes
inline constexpr int64_t kUnknownSize = -1;  // symbolic
inline constexpr int64_t kRaggedSize = -2;   // of a nested tensor: each of its tensors has another

// Kernel::kind
enum class Activity : uint8_t {
  kKernel = 0,
  kCopy = 1,
  kMemset = 2,
  kInterval = 3,  // the time between two events on a stream: all activity of one op or call, and the gaps in between
};

// Kernel::direction, of a copy
enum class Direction : uint8_t {
  kOther = 0,
  kHostToDevice = 1,
  kDeviceToHost = 2,
  kOnDevice = 3,
  kBetweenDevices = 4,
};

// RuntimeCall::kind
enum class RuntimeCallKind : uint8_t {
  kLaunch = 0,
  kCopy = 1,
  kMemset = 2,
  kGraphLaunch = 3,
  kSynchronize = 4,
  kMemory = 5,  // reserves or releases memory of the driver, which may synchronize too
};

}  // namespace torchprof
