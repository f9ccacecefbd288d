// The rows of every table of a trace. Each struct is one numpy dtype in torchprof/trace/schema.py, field by field. A test compares
// the two, so a change is made in both places and in csrc/bindings/rows.cpp.
//
// While recording, `start`, `end` and `time` are clock ticks, and row numbers count the rows of one thread. collate() turns them into
// nanoseconds since the start of the recording and into row numbers of the whole trace. MemoryEvent, Arguments and OpStack exist only
// while recording: they become Allocation, Signature and op_stacks. Step, OpTotal, CallTotal and KernelTotal are computed.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "trace/enums.h"

namespace torchprof {

// One call of the dispatcher, one autograd node, or one user range (record_function).
struct Op {
  int64_t start;
  int64_t end;
  int64_t sequence_nr;      // autograd's number, the same for an op and for the node it creates; -1: none
  uint32_t signature;       // row of signatures; while recording, row of strings: its name
  int32_t parent;           // row of ops, same thread
  int32_t module_call;      // row of module_calls: the innermost open one, or with kAttributed that of the forward op
  uint32_t inputs;          // first row of operands, n_inputs of them
  uint32_t outputs;         // first row of operands, n_outputs of them
  uint32_t forward_thread;  // autograd nodes: PyTorch's id of the thread that ran the forward op; 0: none
  uint16_t n_inputs;
  uint16_t n_outputs;
  uint16_t thread;  // row of threads
  uint8_t scope;    // at::RecordScope
  uint8_t flags;
};

// A tensor as ops and module calls saw it. The same storage with the same shape, dtype and device is nearly always one row. Ops and
// calls refer to their tensors through `operands`, a list of rows of tensors. Most tensors are used several times, so each further
// use costs 4 bytes instead of 32. Touching fresh memory is the largest part of the cost of recording.
struct Tensor {
  uint64_t storage;       // address of its data: tensors with the same storage are views of each other
  int64_t storage_bytes;  // of the whole storage
  int64_t bytes;          // where flags say so (kNotDense, kWrapperSubclass, kObject): what it takes; otherwise the shape tells
  uint32_t shape;         // row of shapes
  int8_t dtype;           // c10::ScalarType
  int8_t device_type;     // c10::DeviceType
  int8_t device_index;    // -1: the only one
  uint8_t flags;
};

// All arguments, as JSON, of an op whose FLOPs depend on more than its tensors. Among the inputs, {} is a tensor and null is
// undefined; among the outputs, {} is a tensor that it returned. Kept only for the ops named when the recording starts. Of an op that
// asks for a collective, only its process group: see group_text().
struct Arguments {
  int32_t op;        // row of ops
  uint32_t inputs;   // row of strings
  uint32_t outputs;  // row of strings
};

// What ops that do the same work have in common: name, arguments where they were kept, and the shape, dtype and device of every
// tensor. FLOPs and bytes follow from it, so they are computed once per signature.
struct Signature {
  uint32_t name;    // row of strings
  uint32_t inputs;  // first row of operands, as in Op: the tensors of the first op with this signature
  uint32_t outputs;
  uint32_t arguments;  // row of strings, as in Arguments::inputs; kNoName: not kept
  uint32_t results;    // row of strings, as in Arguments::outputs
  uint16_t n_inputs;
  uint16_t n_outputs;
};

// One call of one nn.Module.
struct ModuleCall {
  int64_t start;
  int64_t end;
  uint32_t module;  // row of modules
  int32_t parent;   // row of module_calls, same thread
  int32_t op;       // row of ops: the op or user range that was open when it began
  uint32_t inputs;  // as in Op
  uint32_t outputs;
  uint16_t n_inputs;
  uint16_t n_outputs;
  uint16_t thread;
  uint8_t flags;
  uint8_t reserved;
  int32_t stack;  // while recording: row of stacks; then it is in call_stacks
};

struct Module {
  uint64_t address;  // id(module) in Python, or see NewAddresses; 0: several of a class, in sums over steps
  uint32_t type;     // row of strings: the qualified name of its class
  uint32_t reserved;
};

// By the address of a module that is gone, which another may come to have: the address in its rows from now on, where no object can be.
using NewAddresses = std::unordered_map<uint64_t, uint64_t>;

// Memory that was allocated (bytes > 0) or freed (bytes < 0; kUnknownFree where its size is not known).
struct MemoryEvent {
  int64_t time;
  uint64_t address;
  int64_t bytes;
  int32_t op;           // row of ops: the innermost open one
  int32_t module_call;  // row of module_calls: the innermost open one
  uint16_t thread;
  int8_t device_type;
  int8_t device_index;
  uint32_t reported : 8;  // not 0: by PyTorch, which may not report the free of this block, or the allocation of that one
  uint32_t stack : 24;    // row of stacks; kStackOfOp, kUnknownStack
};

// A storage whose memory nobody reports, such as that of an array of NumPy, where it was first used; or its end.
struct BlockMet {
  int64_t time;
  uint64_t address;
  int64_t bytes;  // 0: it does not own its memory; kUnknownFree: it has ended
  int32_t op;     // as in MemoryEvent
  int32_t module_call;
  uint32_t storage;  // a number for it
  uint16_t thread;
  uint8_t ends;  // Ends
  uint8_t reserved;
};

// One block of memory, from its allocation to its free. A block from before the recording is listed where the recording saw it: as
// the storage of a tensor, or held by the model.
struct Allocation {
  int64_t start;  // kNever: before the recording
  int64_t end;    // kNever: not freed when the recording ended
  uint64_t address;
  int64_t bytes;
  int32_t op;           // row of ops: the innermost one that was open
  int32_t free_op;      // the same, when it was freed
  int32_t module_call;  // row of module_calls: that of the op, or the innermost one that was open
  int32_t module;       // row of modules: that of the call; of a parameter, buffer or gradient, the module that holds it
  uint16_t thread;
  int8_t device_type;
  int8_t device_index;
  uint16_t uses;  // bits, see below: how it was used
  uint16_t reserved;
};

// The totals of an allocator, other than the CPU's. Between two rows nothing was reserved or released, and `allocated` changed only
// by the allocations of the recording.
struct AllocatorTotal {
  int64_t time;
  int64_t allocated;   // bytes of blocks in use
  int64_t reserved;    // bytes taken from the device: blocks in use and cached blocks
  int64_t unreported;  // of `allocated`, the bytes whose allocation was not reported to the recording; filled in by collate()
  int8_t device_type;
  int8_t device_index;
  uint8_t padding[6];
};

// One activity of a device: a kernel, a copy, a memset. Its times are the device's, translated to the clock of the trace.
struct Kernel {
  int64_t start;
  int64_t end;
  int64_t bytes;         // of a copy or memset
  uint32_t name;         // row of strings
  int32_t runtime_call;  // row of runtime_calls: the one that launched it
  int32_t op;            // row of ops: the innermost one that was open at the launch
  int32_t module_call;   // row of module_calls: the one of that op, or the innermost one that was open
  uint32_t stream;
  uint32_t grid[3];
  uint16_t block[3];
  uint16_t registers;      // per thread
  uint32_t shared_memory;  // per block, static and dynamic
  uint32_t graph;          // of the CUDA graph it is a node of; 0: none
  int8_t device_type;
  int8_t device_index;
  uint8_t kind;       // Activity
  uint8_t direction;  // Direction
  uint8_t phase;      // Phase
  uint8_t reserved[3];
};

// One call of the device's runtime or driver that launched an activity, managed memory or synchronized. Its times are the host's.
struct RuntimeCall {
  int64_t start;
  int64_t end;
  uint32_t name;         // row of strings
  int32_t op;            // row of ops: the innermost one that was open
  int32_t module_call;   // row of module_calls, as in Kernel
  uint32_t correlation;  // the driver's number for it
  uint16_t thread;       // row of threads; kNoThread: nothing else was recorded on it
  uint8_t kind;          // RuntimeCallKind
  uint8_t phase;         // Phase
  uint8_t reserved[4];
};

// A moment that the caller named: the end of forward, for example.
struct Mark {
  int64_t time;
  uint32_t name;  // row of strings
  uint32_t reserved;
};

// One step of a loop, as the caller marked it; its memory, that of the allocations of this recording, on all devices; and how its
// time divides into phases. What is left of it is Phase::kOther.
struct Step {
  int64_t start;
  int64_t end;
  int64_t allocated;  // bytes allocated during the step
  int64_t peak;       // the most bytes that were allocated at once during the step
  int64_t held;       // bytes that were allocated at its end
  int64_t busy;       // nanoseconds in which any device was active for it
  int64_t forward;    // nanoseconds in forward
  int64_t recompute;  // nanoseconds in which forward was computed again for backward
  int64_t backward;   // nanoseconds in backward
  int64_t optimizer;  // nanoseconds in optimizers
  int64_t data;       // nanoseconds in which the loop waited for data
  int32_t number;     // counted from 0, steps that were not recorded included
  uint32_t kernels;   // how many rows of kernels it launched
  uint8_t warmup;     // not 0: left out of averages
  uint8_t reserved[7];
};

// Sums over the ops with the same signature, module, phase, nesting and stack. A recording that aggregates its steps keeps these instead of
// the ops. Warm-up steps are left out. Where a module runs an op with many shapes, one row stands for all but the first ones
// (`merged` is not 0): its signature has the name alone, and FLOPs and bytes are sums, too.
struct OpTotal {
  int64_t count;
  int64_t time;       // nanoseconds, including the ops inside
  int64_t self_time;  // excluding the ops and module calls inside
  int64_t min;        // of the time of one op
  int64_t max;
  int64_t allocated;    // bytes it allocated, freed or not
  int64_t device_time;  // of the kernels that it and the ops inside it launched
  int64_t device_self;  // of the kernels that it launched itself
  int64_t kernels;      // how many it launched itself
  int64_t flops;        // where rows were merged: of all its ops
  double moved;         // the same: bytes read and written; NaN: not known
  uint32_t merged;      // how many rows with a signature of their own were added to it
  uint32_t signature;   // row of signatures
  int32_t module;       // row of modules
  uint8_t phase;
  uint8_t nested;   // not 0: kNested
  uint8_t wrapper;  // not 0: kWrapper
  uint8_t unknown;  // not 0: rows were merged, of which some have FLOPs that nobody knows
  int32_t stack;    // row of stacks; of backward, that of the forward ops that they differentiate
  uint32_t range;   // while recording: not 0: user ranges
};

// The same for the calls of a module in one phase and with the same stack. A call inside another call of the same module adds to `count` but not to `time`.
struct CallTotal {
  int64_t count;
  int64_t time;
  int64_t self_time;
  int64_t min;
  int64_t max;
  uint32_t module;
  int32_t caller;  // row of modules: the one whose call the first of them ran in
  uint8_t phase;   // kForward, kRecomputation or kData
  uint8_t reserved[3];
  int32_t stack;  // row of stacks
};

// Sums over the kernels with the same name, name of the op, module and phase.
struct KernelTotal {
  int64_t count;
  int64_t time;
  int64_t min;
  int64_t max;
  int64_t bytes;
  uint32_t name;   // row of strings
  uint32_t op;     // row of strings: the name of the op; kNoName: no op was open
  int32_t module;  // row of modules
  int8_t device_type;
  int8_t device_index;
  uint8_t kind;
  uint8_t direction;
  uint8_t phase;
  uint8_t in_graph;  // not 0: nodes of CUDA graphs
  uint8_t reserved[6];
};

// A function of Python.
struct Function {
  uint32_t name;  // row of strings: with the classes and functions that it is defined in
  int32_t file;   // row of strings; kNoRow: not known
  int32_t first_line;
};

// The line of a function, and where it was called: a row is a whole stack.
struct Stack {
  int32_t parent;     // row of stacks: the caller's, which comes before
  uint32_t function;  // row of functions
  int32_t line;       // kNoRow: not known
};

// The stack in which an op began, if that is not the one of the op around it.
struct OpStack {
  int32_t op;     // row of ops
  int32_t stack;  // row of stacks
};

// A shape is dims[first : first + ndim].
struct Shape {
  uint32_t first;
  uint32_t ndim;
};

struct Thread {
  uint64_t torch_id;   // at::RecordFunction::currentThreadId()
  uint64_t native_id;  // the operating system's
};

static_assert(sizeof(Op) == 56 && sizeof(Tensor) == 32 && sizeof(ModuleCall) == 48 && sizeof(Signature) == 24);
static_assert(sizeof(Module) == 16 && sizeof(MemoryEvent) == 40 && sizeof(BlockMet) == 40 && sizeof(Allocation) == 56 &&
              sizeof(Mark) == 16);
static_assert(sizeof(Shape) == 8 && sizeof(Thread) == 16 && sizeof(Arguments) == 12);
static_assert(sizeof(Function) == 12 && sizeof(Stack) == 12 && sizeof(OpStack) == 8);
static_assert(sizeof(Step) == 104 && sizeof(OpTotal) == 112 && sizeof(CallTotal) == 56);
static_assert(sizeof(AllocatorTotal) == 40);
static_assert(sizeof(Kernel) == 80 && sizeof(RuntimeCall) == 40 && sizeof(KernelTotal) == 64);

}  // namespace torchprof
