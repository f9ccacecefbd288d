// Finds the ops that do the same work: see Signature.
#pragma once

#include <vector>

#include "trace/list_table.h"
#include "trace/tables.h"

namespace torchprof {

// signature <-> id. Tensors are distinguished by shape, dtype and device, and outputs by whether they share storage with the first
// input: contiguous() may copy or not.
class SignatureTable {
 public:
  // `name`, `arguments` and `results` are rows of strings, and `kinds` are from add_kinds(). Ids are consecutive, so a new one equals
  // the number of signatures so far.
  uint32_t id(const Signature& signature, const std::vector<int64_t>& kinds) {
    set_words(signature, kinds);
    return id();
  }
  // The same in two steps: the kinds are appended to what words() returns.
  std::vector<int64_t>& words(const Signature& signature) {
    words_.assign({signature.name, signature.arguments, signature.results, signature.n_inputs});
    return words_;
  }
  uint32_t id() { return table_.id(words_.data(), words_.size()); }
  // kNoName: it is not known.
  uint32_t find(const Signature& signature, const std::vector<int64_t>& kinds) {
    set_words(signature, kinds);
    return table_.find(words_.data(), words_.size(), kNoName);
  }

 private:
  void set_words(const Signature& signature, const std::vector<int64_t>& kinds) {
    words(signature);
    words_.insert(words_.end(), kinds.begin(), kinds.end());
  }

  ListTable table_;
  std::vector<int64_t> words_;
};

// Appends a number for each tensor of an op, inputs and then outputs.
void add_kinds(const Tensor* tensors, size_t n_inputs, size_t n_outputs, std::vector<int64_t>& kinds);

// Replaces the row of the name of every op by the row of its signature. `arguments` are in order of their ops.
void assign_signatures(Tables& tables, const std::vector<Arguments>& arguments);

}  // namespace torchprof
