// Sums steps up, so that a recording of any length takes constant memory: see OpTotal, CallTotal and KernelTotal.
//
//   tables of a step ──add──► op_totals, call_totals, kernel_totals  ──take──► tables without rows per event
#pragma once

#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "collate/interner.h"
#include "collate/phase_times.h"
#include "collate/signatures.h"
#include "trace/tables.h"

namespace torchprof {

class Totals {
 public:
  void add(const Tables& step, const PhaseTimes& times);
  // The sums, with the strings, shapes, signatures and modules that they refer to. Nothing may be added afterwards.
  Tables take();

 private:
  uint32_t add_signature(const Signature& signature, const Tables& step, const std::vector<uint32_t>& strings,
                         const std::vector<uint32_t>& shapes);
  void add_kernels(const Tables& step, const std::vector<uint32_t>& strings, const std::vector<uint32_t>& modules);

  Interner interner_;
  SignatureTable known_;
  Tables tables_;
  std::unordered_map<uint64_t, size_t> op_rows_;    // by signature, module, phase and nesting
  std::unordered_map<uint64_t, size_t> call_rows_;  // by module and phase
  // By name, name of the op, module, device, kind, direction, phase, and whether in a graph.
  std::map<std::tuple<uint32_t, uint32_t, int32_t, int8_t, int8_t, uint8_t, uint8_t, uint8_t, uint8_t>, size_t> kernel_rows_;
};

}  // namespace torchprof
