// The rows of every table of a trace. Each struct here is one numpy dtype in torchprof/trace.py, field by
// field: bindings.cpp hands the layouts over and a test compares them, so a change is made in both places.
//
// While recording, `start`, `end` and `time` hold raw clock ticks and every id is local to its thread;
// collate() turns them into nanoseconds since the start of the recording and rows of the whole trace. Some structs live
// on one side only: MemoryEvent and Arguments are recorded, and become Allocation and Signature; Step, OpTotal and
// CallTotal are computed.
// Row numbers are -1 where there is none; times are kNever where the end was not seen.
#pragma once

#include <cstdint>

namespace torchprof {

inline constexpr int32_t kNoRow = -1;
inline constexpr int64_t kNever = -1;

// Op::scope, of at::RecordScope
inline constexpr uint8_t kBackwardScope = 1;
inline constexpr uint8_t kUserScope = 7;

// Op::flags
inline constexpr uint8_t kJoined = 1;     // module_call is not the call it ran in, but the one it worked for
inline constexpr uint8_t kTruncated = 2;  // some of its tensors did not fit the budget
inline constexpr uint8_t kWrapper = 4;    // it left its work to an op inside it, so its bytes are not counted again
inline constexpr uint8_t kNested = 8;     // its FLOPs are not counted: it ran inside an op whose are, or an op inside does its work
inline constexpr uint8_t kPhaseShift = 4; // the upper half is its Phase

// What a training step was doing.
enum class Phase : uint8_t {
  kOther = 0,
  kForward = 1,
  kRecomputation = 2,  // forward, run again inside a backward pass by activation checkpointing
  kBackward = 3,
  kOptimizer = 4,
};

// ModuleCall::flags
inline constexpr uint8_t kRaised = 1;      // forward left through an exception
inline constexpr uint8_t kMoreTensors = 2; // some tensors were not recorded: over the budget or the per-call limit
inline constexpr uint8_t kReturnedSequence = 4;  // a tuple or a list, not a tensor
inline constexpr uint8_t kRecomputed = 8;  // it ran inside a backward pass

// Allocation::uses
inline constexpr uint16_t kParameter = 1;        // a parameter of the model
inline constexpr uint16_t kBuffer = 2;           // a buffer of the model
inline constexpr uint16_t kGradient = 4;         // accumulated by autograd and held since, or in .grad of a parameter
inline constexpr uint16_t kModuleInput = 8;      // an input of an outermost module call
inline constexpr uint16_t kModuleOutput = 16;    // an output of an outermost module call
inline constexpr uint16_t kReadByForward = 32;   // an input of a forward op
inline constexpr uint16_t kReadByBackward = 64;  // an input of a backward or recomputed op
inline constexpr uint16_t kReadByOptimizer = 128;  // an input of an op of an optimizer
inline constexpr uint16_t kOutlived = 256;       // still held when the outermost call or op it was made in had ended

// Tensor::flags
inline constexpr uint8_t kNoData = 1;        // meta or fake: `storage` names the block all the same
inline constexpr uint8_t kSymbolic = 2;      // sizes are symbolic: recorded as the empty shape
inline constexpr uint8_t kNoStorage = 4;     // sparse, nested, opaque: storage_bytes is 0
inline constexpr uint8_t kTransformed = 8;   // inside torch.func: it stands for another one, which may be larger

// Kernel::kind
enum class Work : uint8_t {
  kKernel = 0,
  kCopy = 1,
  kSet = 2,
  kInterval = 3,  // of its stream, between two events: all that ran there for one op or call, and the gaps in between
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
enum class Request : uint8_t {
  kLaunch = 0,
  kCopy = 1,
  kSet = 2,
  kGraph = 3,  // the launch of a CUDA graph
  kWait = 4,   // until the device is done
  kMemory = 5,  // from the driver or given back to it, which may wait too
};

// One call of the dispatcher, one autograd node, or one user range (record_function).
struct Op {
  int64_t start;
  int64_t end;
  int64_t sequence_nr;      // autograd's number, shared by an op and the node it creates; -1: none
  uint32_t signature;       // row of signatures; while recording, its name: row of strings
  int32_t parent;           // row of ops, same thread
  int32_t module_call;      // row of module_calls: the innermost that was open, or with kJoined that of the forward op
  uint32_t inputs;          // first row of operands, n_inputs of them
  uint32_t outputs;         // first row of operands, n_outputs of them
  uint32_t forward_thread;  // autograd nodes: PyTorch's id of the thread that ran the forward; 0: none
  uint16_t n_inputs;
  uint16_t n_outputs;
  uint16_t thread;          // row of threads
  uint8_t scope;            // at::RecordScope
  uint8_t flags;
};

// A tensor as ops and module calls saw it: the same storage with the same shape, dtype and device is (nearly always) one
// row, however often it is met. Ops and calls name their tensors through `operands`, a list of rows of tensors. Most
// tensors are met several times, so a meeting costs 4 bytes where a copy of the row would cost 24; touching fresh
// memory is the largest part of what a recording costs.
struct Tensor {
  uint64_t storage;        // address of its data: two tensors that share it are views of one storage
  int64_t storage_bytes;   // of the whole storage
  uint32_t shape;          // row of shapes
  int8_t dtype;            // c10::ScalarType
  int8_t device_type;      // c10::DeviceType
  int8_t device_index;     // -1: the only one
  uint8_t flags;
};

// All arguments of an op whose FLOPs do not follow from its tensors alone, as JSON: a tensor is {}, and {} again stands for
// each tensor it returned; what is undefined is null. Kept only for the ops named when the recording starts.
struct Arguments {
  int32_t op;        // row of ops
  uint32_t inputs;   // row of strings
  uint32_t outputs;  // row of strings
};

// What ops have in common that do the same work: name, arguments where they were kept, and the shape, dtype and device of
// every tensor. FLOPs and bytes follow from it, so they are computed once for each of these.
struct Signature {
  uint32_t name;       // row of strings
  uint32_t inputs;     // first row of operands, as in Op: the tensors of the first op that had this signature
  uint32_t outputs;
  uint32_t arguments;  // rows of strings, as in Arguments; kNoArguments where they were not kept
  uint32_t results;
  uint16_t n_inputs;
  uint16_t n_outputs;
};
inline constexpr uint32_t kNoArguments = UINT32_MAX;

// One call of one nn.Module.
struct ModuleCall {
  int64_t start;
  int64_t end;
  uint32_t module;  // row of modules
  int32_t parent;   // row of module_calls, same thread
  int32_t op;       // row of ops: the op or user range that was open when it began
  uint32_t inputs;   // as in Op
  uint32_t outputs;
  uint16_t n_inputs;
  uint16_t n_outputs;
  uint16_t thread;
  uint8_t flags;
  uint8_t reserved[5];
};

struct Module {
  uint64_t address;  // id(module) in Python
  uint32_t type;     // row of strings: the qualified name of its class
  uint32_t reserved;
};

// Memory handed out (bytes > 0) or given back (bytes < 0), as PyTorch reports it.
struct MemoryEvent {
  int64_t time;
  uint64_t address;
  int64_t bytes;
  int32_t op;           // row of ops: the innermost that was open
  int32_t module_call;  // row of module_calls: the innermost that was open
  uint16_t thread;
  int8_t device_type;
  int8_t device_index;
};

// One block of memory, from the moment it was handed out to the moment it was given back. Blocks from before the
// recording are listed where the recording met them: in a tensor, or held by the model.
struct Allocation {
  int64_t start;        // kNever: before the recording
  int64_t end;          // kNever: still held when the recording ended
  uint64_t address;
  int64_t bytes;
  int32_t op;           // row of ops: the innermost that was open
  int32_t free_op;      // the same when it was given back
  int32_t module_call;  // row of module_calls: that of the op, or the innermost that was open
  int32_t module;       // row of modules: that of the call; of a parameter, buffer or gradient, the one that holds it
  uint16_t thread;
  int8_t device_type;
  int8_t device_index;
  uint16_t uses;        // how it was seen to be used
  uint16_t reserved;
};

// What the allocator of a device, other than the CPU's, says it has in total. Between two rows nothing was taken from the
// device or returned to it, and what was handed out changed by the allocations of the recording alone.
struct AllocatorTotal {
  int64_t time;
  int64_t allocated;   // in blocks that are handed out
  int64_t reserved;    // taken from the device: what is handed out, and what is kept to be
  int64_t unreported;  // of what is handed out, all that the recording saw no report of; collated
  int8_t device_type;
  int8_t device_index;
  uint8_t padding[6];
};

// What a device did for the program: a kernel, a copy, a fill. Its times are the device's, on the axis of all others.
struct Kernel {
  int64_t start;
  int64_t end;
  int64_t bytes;           // of a copy or fill
  uint32_t name;           // row of strings
  int32_t runtime_call;    // row of runtime_calls: the one that asked for it
  int32_t op;              // row of ops: the innermost that was open when it was asked for
  int32_t module_call;     // row of module_calls: the one that op worked for, or the innermost that was open
  uint32_t stream;
  uint32_t grid[3];
  uint16_t block[3];
  uint16_t registers;      // per thread
  uint32_t shared_memory;  // per block, static and dynamic
  uint32_t graph;          // of the CUDA graph it is a node of; 0: none
  int8_t device_type;
  int8_t device_index;
  uint8_t kind;            // Work
  uint8_t direction;       // Direction
  uint8_t phase;           // Phase
  uint8_t reserved[3];
};

// One call of the device's runtime or driver that asked for work, or waited for it. Its times are the host's.
struct RuntimeCall {
  int64_t start;
  int64_t end;
  uint32_t name;         // row of strings
  int32_t op;            // row of ops: the innermost that was open
  int32_t module_call;   // row of module_calls: as in Kernel
  uint32_t correlation;  // the driver's number for it
  uint16_t thread;       // row of threads; kNoThread: one of which nothing else was recorded
  uint8_t kind;          // Request
  uint8_t phase;         // Phase
  uint8_t reserved[4];
};
inline constexpr uint16_t kNoThread = UINT16_MAX;

// A moment the caller named: the end of forward, a step.
struct Mark {
  int64_t time;
  uint32_t name;  // row of strings
  uint32_t reserved;
};

// One step of a loop, as the caller marked it, and its memory: of what this recording saw handed out, on all devices.
struct Step {
  int64_t start;
  int64_t end;
  int64_t allocated;  // bytes handed out during the step
  int64_t peak;       // the most held at once during the step
  int64_t held;       // held at its end
  int64_t busy;       // time in which any device worked for it
  int32_t number;     // counted from 0, those that were not recorded included
  uint32_t kernels;   // rows of kernels that it asked for
  uint8_t warmup;     // not 0: not to be counted
  uint8_t reserved[7];
};

// Sums over ops with the same signature that worked for the same module in the same phase, with the same nesting. What a recording keeps of
// steps that it folded; warm-up steps are left out.
struct OpTotal {
  int64_t count;
  int64_t time;       // with the ops inside, nanoseconds
  int64_t self_time;  // without
  int64_t min;        // of the time of one op
  int64_t max;
  int64_t allocated;  // bytes it was handed, given back or not
  int64_t device_time;  // of the kernels that it and the ops inside it asked for
  int64_t device_self;  // of those it asked for itself
  int64_t kernels;      // how many those are
  uint32_t signature; // row of signatures
  int32_t module;     // row of modules
  uint8_t phase;
  uint8_t nested;     // not 0: kNested
  uint8_t wrapper;    // not 0: kWrapper
  uint8_t reserved[5];
};

// The same for the calls of a module. Calls inside another call of the same module count, their time does not.
struct CallTotal {
  int64_t count;
  int64_t time;
  int64_t self_time;
  int64_t min;
  int64_t max;
  uint32_t module;
  int32_t caller;      // row of modules: the one whose call the first of them ran in
  uint8_t recomputed;  // not 0: these ran inside backward passes
  uint8_t reserved[7];
};

// Sums over kernels with the same name that worked for ops of the same name and the same module in the same phase.
struct KernelTotal {
  int64_t count;
  int64_t time;
  int64_t min;
  int64_t max;
  int64_t bytes;
  uint32_t name;   // row of strings
  uint32_t op;     // row of strings: the name of the op; kNoName: none was open
  int32_t module;  // row of modules
  int8_t device_type;
  int8_t device_index;
  uint8_t kind;
  uint8_t direction;
  uint8_t phase;
  uint8_t in_graph;  // not 0: nodes of CUDA graphs
  uint8_t reserved[6];
};
inline constexpr uint32_t kNoName = UINT32_MAX;

// A shape is dims[first : first + ndim].
struct Shape {
  uint32_t first;
  uint32_t ndim;
};

struct Thread {
  uint64_t torch_id;   // at::RecordFunction::currentThreadId()
  uint64_t native_id;  // the operating system's
};

static_assert(sizeof(Op) == 56 && sizeof(Tensor) == 24 && sizeof(ModuleCall) == 48 && sizeof(Signature) == 24);
static_assert(sizeof(Module) == 16 && sizeof(MemoryEvent) == 40 && sizeof(Allocation) == 56 && sizeof(Mark) == 16);
static_assert(sizeof(Shape) == 8 && sizeof(Thread) == 16 && sizeof(Arguments) == 12);
static_assert(sizeof(Step) == 64 && sizeof(OpTotal) == 88 && sizeof(CallTotal) == 56);
static_assert(sizeof(AllocatorTotal) == 40);
static_assert(sizeof(Kernel) == 80 && sizeof(RuntimeCall) == 40 && sizeof(KernelTotal) == 64);

}  // namespace torchprof
