// How long the lists are that ops of optimizers are given: they follow one another, and only what is in them tells where one ends.
//
//   _foreach_add_(buffers, gradients)          b b b g g g        3: one half is gradients
//   _foreach_mul_(buffers, 0.9)                b b b              unknown, and it need not be known
//   _fused_sgd_(weights, gradients, buffers)   w w w g g g b b b  3: the gradients come second
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "collate/updates.h"
#include "trace/tables.h"

namespace torchprof {

bool takes_lists(std::string_view op);

// Fills in Update::list_length of the ops that take lists, where it is certain, or else 0. What foreach runs inside, one tensor after
// the other, says more than its lists: then it is 0 too.
// `used`: the tensors of all updates, see Update::first.
void find_list_lengths(const Tables& tables, const std::vector<int32_t>& used, std::vector<Update>& updates,
                       std::vector<UsedTensor>& tensors);

}  // namespace torchprof
