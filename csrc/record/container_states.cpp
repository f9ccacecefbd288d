#include "record/container_states.h"

#include <algorithm>

namespace torchprof {
namespace {

// The class of Python's own that a container is of, or is derived from. Its functions are called, not those of a class of the
// program's, which may do anything.
PyTypeObject* own_type(ContainerKind kind) {
  static PyObject* const collections = PyImport_ImportModule("collections");
  static PyObject* const deque = PyObject_GetAttrString(collections, "deque");
  switch (kind) {
    case ContainerKind::kOrderedDict:
      return &PyODict_Type;
    case ContainerKind::kSet:
      return &PySet_Type;
    case ContainerKind::kDeque:
      return reinterpret_cast<PyTypeObject*>(deque);
    case ContainerKind::kList:
      return &PyList_Type;
    case ContainerKind::kDict:
      break;
  }
  return &PyDict_Type;
}

Py_ssize_t size_of(PyObject* container, ContainerKind kind) {
  return kind == ContainerKind::kOrderedDict ? PyDict_GET_SIZE(container)
                                             : own_type(kind)->tp_as_sequence->sq_length(container);
}

// Appends new references. False with a Python error set.
bool read(PyObject* container, ContainerKind kind, std::vector<PyObject*>& items) {
  const auto append = [&items](PyObject* item) {
    Py_INCREF(item);
    items.push_back(item);
  };
  if (kind == ContainerKind::kDict) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(container, &position, &key, &value);) {
      append(key);
      append(value);
    }
    return true;
  }
  if (kind == ContainerKind::kList) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container); ++i) {
      append(PyList_GET_ITEM(container, i));
    }
    return true;
  }
  if (size_of(container, kind) == 0) {
    return true;
  }
  // An OrderedDict has an order of its own, which PyDict_Next does not know.
  PyObject* const iterator = own_type(kind)->tp_iter(container);
  PyObject* const members = iterator != nullptr ? PySequence_List(iterator) : nullptr;
  Py_XDECREF(iterator);
  if (members == nullptr) {
    return false;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(members); ++i) {
    append(PyList_GET_ITEM(members, i));
    if (kind == ContainerKind::kOrderedDict) {
      PyObject* const value = PyDict_GetItemWithError(container, PyList_GET_ITEM(members, i));
      append(value != nullptr ? value : Py_None);
    }
  }
  Py_DECREF(members);
  return true;
}

void release(std::vector<PyObject*>& items) {
  for (PyObject* const item : items) {
    Py_DECREF(item);
  }
  items.clear();
}

bool call(ContainerKind kind, const char* method, PyObject* container, PyObject* argument = nullptr) {
  auto* const type = reinterpret_cast<PyObject*>(own_type(kind));
  PyObject* const result = argument != nullptr ? PyObject_CallMethod(type, method, "OO", container, argument)
                                               : PyObject_CallMethod(type, method, "O", container);
  Py_XDECREF(result);
  return result != nullptr;
}

}  // namespace

ContainerStates::~ContainerStates() {
  release(items_);
  for (const Row& row : rows_) {
    Py_DECREF(row.container);
  }
}

std::span<PyObject* const> ContainerStates::add(PyObject* container, ContainerKind kind) {
  const size_t first = items_.size();
  if (!read(container, kind, items_)) {
    PyErr_Clear();
    return {};
  }
  Py_INCREF(container);
  rows_.push_back({container, kind, first, items_.size() - first});
  return std::span(items_).subspan(first);
}

// `now` is scratch space. Values are not compared with ==, because there are tensors among them.
bool ContainerStates::has_changed(const Row& row, std::vector<PyObject*>& now) const {
  PyObject* const* const before = items_.data() + row.first;
  if (row.kind == ContainerKind::kDict) {
    if (static_cast<size_t>(PyDict_GET_SIZE(row.container)) * 2 != row.count) {
      return true;
    }
    PyObject *key = nullptr, *value = nullptr;
    size_t i = 0;
    for (Py_ssize_t position = 0; PyDict_Next(row.container, &position, &key, &value); i += 2) {
      if (before[i] != key || before[i + 1] != value) {
        return true;
      }
    }
    return false;
  }
  if (row.count == 0) {
    return size_of(row.container, row.kind) != 0;
  }
  const bool is_read = read(row.container, row.kind, now);
  const bool is_same = is_read && now.size() == row.count && std::equal(now.begin(), now.end(), before);
  release(now);
  return !is_same;
}

bool ContainerStates::put_back(const Row& row) const {
  PyObject* const* const before = items_.data() + row.first;
  switch (row.kind) {
    case ContainerKind::kDict:
      PyDict_Clear(row.container);
      for (size_t i = 0; i < row.count; i += 2) {
        if (PyDict_SetItem(row.container, before[i], before[i + 1]) != 0) {
          return false;
        }
      }
      return true;
    case ContainerKind::kOrderedDict:
      if (!call(row.kind, "clear", row.container)) {
        return false;
      }
      for (size_t i = 0; i < row.count; i += 2) {
        if (PyODict_SetItem(row.container, before[i], before[i + 1]) != 0) {
          return false;
        }
      }
      return true;
    default:
      break;
  }
  PyObject* const members = PyList_New(static_cast<Py_ssize_t>(row.count));
  if (members == nullptr) {
    return false;
  }
  for (size_t i = 0; i < row.count; ++i) {
    Py_INCREF(before[i]);
    PyList_SET_ITEM(members, static_cast<Py_ssize_t>(i), before[i]);
  }
  const bool is_list = row.kind == ContainerKind::kList;
  const bool done = is_list ? PyList_SetSlice(row.container, 0, PY_SSIZE_T_MAX, members) == 0
                            : call(row.kind, "clear", row.container) &&
                                  call(row.kind, row.kind == ContainerKind::kSet ? "update" : "extend", row.container, members);
  Py_DECREF(members);
  return done;
}

std::vector<std::string> ContainerStates::restore() {
  std::vector<std::string> failures;
  std::vector<PyObject*> scratch;
  std::vector<PyObject*> replaced;  // released last: that may run code of the program, which shall find everything in its place
  for (const Row& row : rows_) {
    if (!has_changed(row, scratch)) {
      continue;
    }
    if (!read(row.container, row.kind, replaced) || !put_back(row)) {
      failures.emplace_back(Py_TYPE(row.container)->tp_name);
    }
    PyErr_Clear();
  }
  release(replaced);
  return failures;
}

}  // namespace torchprof
