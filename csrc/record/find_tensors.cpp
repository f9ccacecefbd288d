#include "record/find_tensors.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <cstring>

#include "record/attributes.h"
#include "record/plain_values.h"
#include "record/pointer_set.h"
#include "record/tensor_reader.h"

namespace torchprof {
namespace {

constexpr int kMaxDepth = 200;        // of containers inside containers
constexpr size_t kMaxObjects = 1024;  // that are no containers, of one search
// Tensors in objects that a module inside another one is given. A cache of 80 layers is given to each of them.
constexpr size_t kMaxInInnerCall = 16;

// Classes that are told apart by address. They are never freed.
struct Classes {
  PyTypeObject* module = loaded_class("torch.nn.modules.module", "Module");
  PyTypeObject* deque = loaded_class("collections", "deque");
  PyTypeObject* user_dict = loaded_class("collections", "UserDict");
  PyTypeObject* user_list = loaded_class("collections", "UserList");
  PyObject* fields = PyUnicode_InternFromString("__dataclass_fields__");
};

const Classes& classes() {
  static const Classes known;
  return known;
}

bool is_a(PyObject* object, PyTypeObject* type) { return type != nullptr && PyType_IsSubtype(Py_TYPE(object), type); }

bool is_callable_or_weak(PyObject* object) {
  return PyFunction_Check(object) || PyCFunction_Check(object) || PyMethod_Check(object) || PyModule_Check(object) ||
         PyWeakref_Check(object) || PyCapsule_CheckExact(object);
}

// An array holds the data of a layer as a tensor does.
bool is_array_of_numpy(PyObject* object) {
  for (const PyTypeObject* type = Py_TYPE(object); type != nullptr; type = type->tp_base) {
    if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 && std::strcmp(type->tp_name, "numpy.ndarray") == 0) {
      return true;
    }
  }
  return false;
}

// Containers of C whose contents tp_traverse visits in order: nothing else reaches them without running code.
traverseproc traversal(PyObject* object) {
  PyTypeObject* const type = Py_TYPE(object);
  if (PyAnySet_Check(object)) {
    return PyAnySet_CheckExact(object) ? type->tp_traverse : PySet_Type.tp_traverse;
  }
  if (is_a(object, classes().deque)) {
    return classes().deque->tp_traverse;
  }
  const bool view = type == &PyDictKeys_Type || type == &PyDictValues_Type || type == &PyDictItems_Type ||
                    type == &PyODictKeys_Type || type == &PyODictValues_Type || type == &PyODictItems_Type;
  return view || type == &PyDictProxy_Type ? type->tp_traverse : nullptr;
}

class Search {
 public:
  explicit Search(bool lists_unread, size_t most_in_objects = kMaxTensors)
      : lists_unread_(lists_unread), most_in_objects_(most_in_objects) {}

  void look_into(PyObject* object) {
    if (is_exceeded_) {
      return;
    }
    if (is_none_int_or_text(object)) {  // first what is usual: this runs twice for every call of a module
      return;
    }
    if (Py_TYPE(object) == recent_class_) {
      look_into_object(object);
    } else if (is_tensor(object)) {
      add(object);
    } else if (PyTuple_Check(object)) {
      enter(object, [&] {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
          look_into(PyTuple_GET_ITEM(object, i));
        }
      });
    } else if (PyList_Check(object)) {
      enter(object, [&] {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
          look_into(PyList_GET_ITEM(object, i));
        }
      });
    } else if (PyDict_Check(object)) {
      enter(object, [&] {
        PyObject* key = nullptr;
        PyObject* value = nullptr;
        for (Py_ssize_t position = 0; PyDict_Next(object, &position, &key, &value);) {
          look_into(value);
        }
      });
    } else if (is_plain_value(object)) {
      return;
    } else if (const traverseproc traverse = traversal(object)) {
      enter(object, [&] { traverse(object, &Search::visit, this); });
    } else if (is_a(object, classes().module) || is_callable_or_weak(object) || !has_attributes(object)) {
      cannot_read(object);
    } else {
      recent_class_ = Py_TYPE(object);  // the layers of a cache, one after the other
      look_into_object(object);
    }
  }

  // Objects that are no containers come last.
  Found finish() {
    found.in_containers = found.tensors.size();
    is_in_object_ = true;
    if (!later_.empty()) {
      for (const c10::TensorImpl* const tensor : found.tensors) {
        known_.insert(tensor);
      }
    }
    for (PyObject* const object : later_) {
      read_attributes(object);
    }
    return std::move(found);
  }

  // Only tensors, and containers of them.
  Found finish_inner(PyObject* tensor) {
    is_inner_ = is_in_object_ = true;
    for_each_attribute(tensor, [&](PyObject* value) { look_into(value); });
    return std::move(found);
  }

 private:
  static int visit(PyObject* object, void* search) {
    static_cast<Search*>(search)->look_into(object);
    return 0;
  }

  // Fields of these are read where they stand.
  static bool is_like_container(PyObject* object) {
    return is_a(object, classes().user_dict) || is_a(object, classes().user_list) ||
           _PyType_Lookup(Py_TYPE(object), classes().fields) != nullptr;
  }

  void add(PyObject* object) {
    const c10::TensorImpl* const tensor = THPVariable_Unpack(object).unsafeGetTensorImpl();
    if (!is_readable(tensor) || (is_in_object_ && !known_.insert(tensor)) || is_repeated(tensor)) {
      return;
    }
    if (found.tensors.size() >= kMaxTensors ||
        (is_in_object_ && found.tensors.size() >= found.in_containers + most_in_objects_)) {
      exceeded(path_.empty() ? object : path_.back());
      return;
    }
    found.tensors.push_back(tensor);
    found.objects.push_back(object);
  }

  bool is_repeated(const c10::TensorImpl* tensor) const {
    return no_repeats_from_ < found.tensors.size() &&
           std::find(found.tensors.begin() + static_cast<std::ptrdiff_t>(no_repeats_from_), found.tensors.end(), tensor) !=
               found.tensors.end();
  }

  void look_into_object(PyObject* object) {
    if (is_in_object_ || is_like_container(object)) {
      read_attributes(object);
    } else {
      later_.push_back(object);
    }
  }

  // A container of a class of its own may hold tensors as attributes too; often they are the same ones.
  template <typename Contents>
  void enter(PyObject* container, Contents contents) {
    if (path_.size() >= kMaxDepth) {
      exceeded(container);
      return;
    }
    if (std::find(path_.begin(), path_.end(), container) != path_.end()) {
      return;  // it contains itself
    }
    path_.push_back(container);
    const size_t first = found.tensors.size();
    contents();
    if (Py_TYPE(container)->tp_dictoffset != 0) {
      const size_t outer = no_repeats_from_;
      no_repeats_from_ = std::min(outer, first);
      for_each_attribute(container, [&](PyObject* value) { look_into(value); });
      no_repeats_from_ = outer;
    }
    path_.pop_back();
  }

  void read_attributes(PyObject* object) {
    if (is_inner_ || !read_.insert(object)) {
      return;
    }
    if (read_.size() > kMaxObjects || path_.size() >= kMaxDepth) {
      exceeded(object);
      return;
    }
    path_.push_back(object);
    const size_t outer = no_repeats_from_;
    const size_t first = found.tensors.size();
    if (PyObject* const fields = _PyType_Lookup(Py_TYPE(object), classes().fields); fields != nullptr && PyDict_Check(fields)) {
      // Slots are in order of their names, fields in the order in which they were declared.
      PyObject* name = nullptr;
      PyObject* field = nullptr;
      for (Py_ssize_t position = 0; PyDict_Next(fields, &position, &name, &field);) {
        PyObject* const slot = _PyType_Lookup(Py_TYPE(object), name);
        PyMemberDef* const member = slot != nullptr && Py_IS_TYPE(slot, &PyMemberDescr_Type)
                                        ? reinterpret_cast<PyMemberDescrObject*>(slot)->d_member
                                        : nullptr;
        PyObject* const value = member != nullptr && member->type == T_OBJECT_EX
                                    ? *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + member->offset)
                                    : attribute(object, name);
        if (value != nullptr) {
          look_into(value);
        }
      }
      no_repeats_from_ = std::min(outer, first);
    }
    for_each_attribute(object, [&](PyObject* value) { look_into(value); });
    no_repeats_from_ = outer;
    path_.pop_back();
  }

  void cannot_read(PyObject* object) {
    if (!lists_unread_ && !is_in_object_ && is_array_of_numpy(object)) {
      list(object);
    }
    // Objects have helpers of all kinds, and those that are called or referred to weakly hold none of their results.
    if (lists_unread_ && !(is_in_object_ && (is_a(object, classes().module) || is_callable_or_weak(object) ||
                                             !PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HAVE_GC)))) {
      list(object);
    }
  }

  void exceeded(PyObject* object) {
    if (!is_exceeded_) {
      is_exceeded_ = true;
      found.unread_in_objects = is_in_object_ && found.unread.empty();
      list(object);
    }
  }

  void list(PyObject* object) {
    if (std::find(found.unread.begin(), found.unread.end(), object) == found.unread.end() && found.unread.size() < 64) {
      found.unread.push_back(object);
    }
  }

  Found found;
  c10::SmallVector<PyObject*, 16> path_;  // the containers and objects that are open
  c10::SmallVector<PyObject*, 4> later_;
  PointerSet read_;                       // objects
  PointerSet known_;                      // tensors
  PyTypeObject* recent_class_ = nullptr;  // of objects that are no containers and have attributes
  size_t no_repeats_from_ = SIZE_MAX;
  const bool lists_unread_;
  const size_t most_in_objects_;
  bool is_in_object_ = false;
  bool is_inner_ = false;
  bool is_exceeded_ = false;
};

}  // namespace

bool are_tensors(PyObject* const* objects, size_t count, Found& found) {
  for (size_t i = 0; i < count; ++i) {
    if (objects[i] == Py_None) {
      continue;
    }
    if (!is_tensor(objects[i]) || found.tensors.size() == kMaxTensors) {
      found = {};
      return false;
    }
    const c10::TensorImpl* const tensor = THPVariable_Unpack(objects[i]).unsafeGetTensorImpl();
    if (is_readable(tensor)) {
      found.tensors.push_back(tensor);
      found.objects.push_back(objects[i]);
    }
  }
  found.in_containers = found.tensors.size();
  return true;
}

Found find_tensors(PyObject* object) {
  Search search(true);
  search.look_into(object);
  return search.finish();
}

Found find_arguments(PyObject* args, PyObject* kwargs, bool is_inner_call) {
  Search search(false, is_inner_call ? kMaxInInnerCall : kMaxTensors);
  search.look_into(args);
  if (kwargs != nullptr) {
    search.look_into(kwargs);
  }
  return search.finish();
}

Found find_arguments(PyObject* const* args, size_t count, bool is_inner_call) {
  Search search(false, is_inner_call ? kMaxInInnerCall : kMaxTensors);
  for (size_t i = 0; i < count; ++i) {
    search.look_into(args[i]);
  }
  return search.finish();
}

Found find_inner_tensors(PyObject* tensor) { return Search(false).finish_inner(tensor); }

bool is_tensor(PyObject* object) {
  auto* const type = reinterpret_cast<PyTypeObject*>(THPVariableClass);
  constexpr unsigned long kNone = Py_TPFLAGS_TUPLE_SUBCLASS | Py_TPFLAGS_LIST_SUBCLASS | Py_TPFLAGS_DICT_SUBCLASS;
  return Py_TYPE(object) == type || ((Py_TYPE(object)->tp_flags & kNone) == 0 && PyType_IsSubtype(Py_TYPE(object), type));
}

}  // namespace torchprof
