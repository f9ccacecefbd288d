// Which ops do the same work: see Signature. Pure, as collate is.
#pragma once

#include <vector>

#include "trace/list_table.h"
#include "trace/tables.h"

namespace torchprof {

// signature <-> id, for ops whose tensors are told apart by shape, dtype and device, and whether one is returned that was
// given: contiguous() copies or does not.
class SignatureTable {
 public:
  // `name`, `arguments` and `results` are rows of strings; `kinds` are those of its tensors. Ids are handed out in order,
  // so a new one equals the number of signatures known before.
  uint32_t id(const Signature& signature, const std::vector<int64_t>& kinds) {
    words_.assign({signature.name, signature.arguments, signature.results, signature.n_inputs});
    words_.insert(words_.end(), kinds.begin(), kinds.end());
    return table_.id(words_.data(), words_.size());
  }

 private:
  ListTable table_;
  std::vector<int64_t> words_;
};

// Appends a number for each of an op's tensors, inputs and then outputs.
void add_kinds(const Tensor* tensors, size_t n_inputs, size_t n_outputs, std::vector<int64_t>& kinds);

// Gives every op the row of its signature in place of that of its name. `arguments` are in order of their ops.
void assign_signatures(Tables& tables, const std::vector<Arguments>& arguments);

}  // namespace torchprof
