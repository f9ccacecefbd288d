// Rows become numpy arrays that own them: nothing is copied, and there is no Python object per row.
#pragma once

#include <pybind11/numpy.h>

#include <utility>
#include <vector>

namespace torchprof::bindings {

template <typename Row>
pybind11::array to_array(std::vector<Row>&& rows) {
  auto* const owned = new std::vector<Row>(std::move(rows));
  const pybind11::capsule owner(owned, [](void* vector) { delete static_cast<std::vector<Row>*>(vector); });
  return pybind11::array_t<Row>({owned->size()}, {sizeof(Row)}, owned->data(), owner);
}

}  // namespace torchprof::bindings
