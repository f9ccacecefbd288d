// Reads stacks without a recording and without PyTorch: an extension for any CPython, of csrc/record/stacks.cpp and csrc/record/python/.
#include <Python.h>

#include <memory>
#include <string>

#include "record/python/code_object.h"
#include "record/stacks.h"

using namespace torchprof;

namespace {

Budget budget(int64_t{1} << 30);
std::unique_ptr<CallTree> tree;
std::unique_ptr<ThreadLog> thread_log;
std::unique_ptr<StackObserver> observer;

PyObject* begin(PyObject*, PyObject*) {
  observer = std::make_unique<StackObserver>(StacksRead::kFromFrames);
  thread_log.reset();
  tree = std::make_unique<CallTree>(budget, 0);
  thread_log = std::make_unique<ThreadLog>(budget, uint16_t{0}, Thread{}, OpClasses{}, 0, tree.get());
  Py_RETURN_NONE;
}

PyObject* end(PyObject*, PyObject*) {
  observer.reset();
  Py_RETURN_NONE;
}

// The row of the stack of the caller, read as in a callback: without the GIL.
PyObject* read(PyObject*, PyObject*) {
  int32_t row = kNoRow;
  Py_BEGIN_ALLOW_THREADS row = read_stack(*thread_log, python::innermost_frame());
  Py_END_ALLOW_THREADS return PyLong_FromLong(row);
}

// All rows: (parent, name, file, first line, line). Nothing can be read after this.
PyObject* rows(PyObject*, PyObject*) {
  std::vector<Function> functions;
  thread_log->tree_rows.functions.drain(
      [&](const Function* rows, size_t n) { functions.insert(functions.end(), rows, rows + n); });
  PyObject* const list = PyList_New(0);
  thread_log->tree_rows.nodes.drain([&](const Stack* rows, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const Function& function = functions[rows[i].function];
      const char* const file =
          function.file == kNoRow ? nullptr : thread_log->strings[static_cast<uint32_t>(function.file)].c_str();
      PyObject* const row = Py_BuildValue("(iszii)", rows[i].parent, thread_log->strings[function.name].c_str(), file,
                                          function.first_line, rows[i].line);
      PyList_Append(list, row);
      Py_DECREF(row);
    }
  });
  return list;
}

PyObject* can_read(PyObject*, PyObject*) { return PyBool_FromLong(can_read_frames() ? 1 : 0); }

// The lines of all instructions of a code object.
PyObject* lines(PyObject*, PyObject* object) {
  const auto& code = *reinterpret_cast<const PyCodeObject*>(object);
  PyObject* const list = PyList_New(0);
  for (Py_ssize_t unit = 0; unit < Py_SIZE(object); ++unit) {
    PyObject* const line = PyLong_FromLong(python::line_of(code, code.co_code_adaptive + 2 * unit));
    PyList_Append(list, line);
    Py_DECREF(line);
  }
  return list;
}

PyObject* text(PyObject*, PyObject* object) {
  const std::string text = python::text_of(object);
  return PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

PyMethodDef methods[] = {{"begin", begin, METH_NOARGS, nullptr},
                         {"end", end, METH_NOARGS, nullptr},
                         {"read", read, METH_NOARGS, nullptr},
                         {"rows", rows, METH_NOARGS, nullptr},
                         {"can_read", can_read, METH_NOARGS, nullptr},
                         {"lines", lines, METH_O, nullptr},
                         {"text", text, METH_O, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "python_frames", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_python_frames() { return PyModule_Create(&definition); }
