// Tensors whose own fields do not say what they hold: sparse, nested, symbolic, those of torch.func, subclasses around other tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <Python.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/DimVector.h>
#include <c10/util/SmallVector.h>

#include "record/tensor_reader.h"

namespace torchprof {

struct Reading {
  Tensor row{};
  c10::DimVector dims;
};

// Everything of any tensor but the row of its shape. `object` is the tensor in Python where the GIL is held: only then is it known
// what a subclass holds. It may be nullptr.
Reading read_tensor(const c10::TensorImpl& tensor, PyObject* object);

// What its elements take, or, of a subclass around other tensors, what these take; kUnknownBytes.
int64_t bytes_of(const c10::TensorImpl& tensor, PyObject* object);

// Indices and values of a sparse tensor; nothing for others.
c10::SmallVector<at::Tensor, 3> parts_of(const c10::TensorImpl& tensor);

}  // namespace torchprof
