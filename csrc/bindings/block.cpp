// A `with` block inside which recordings begin and end. An interrupt (Ctrl-C) is raised between any two instructions of Python, so
// `__enter__` written in Python may be left with a recording running, and `__exit__` not come that far. No instruction of Python stands
// between these two and the `with`:
//
//   with ──► enter() ──► __enter__ in Python      where it raises, its recording ends without a trace
//   with ──► exit()  ──► __exit__ in Python       whatever happens in it, no recording is left afterwards
#include <unistd.h>

#include "bindings/bindings.h"
#include "session/session.h"

namespace torchprof::bindings {

namespace py = pybind11;

namespace {

class Block {
 public:
  bool is_inside() const { return inside_ && process_ == getpid(); }
  bool is_of_parent() const { return process_ != 0 && process_ != getpid(); }  // this is a fork of the process that entered it

  static py::object enter(const py::object& self, const py::object& function) {
    auto& block = self.cast<Block&>();
    if (block.is_inside()) {
      return function();  // which refuses
    }
    try {
      py::object result = function();
      block.process_ = getpid();
      block.inside_ = true;
      return result;
    } catch (...) {
      abandon(self.ptr());
      throw;
    }
  }

  static py::object exit(const py::object& self, const py::object& function, const py::object& kind, const py::object& error,
                         const py::object& traceback) {
    if (self.cast<Block&>().is_of_parent()) {
      return py::bool_(false);
    }
    const End end{self, self.cast<Block&>()};
    return function(kind, error, traceback);
  }

 private:
  struct End {
    const py::object& self;
    Block& block;
    ~End() {
      if (abandon(self.ptr())) {  // false: this is the wrong thread, and the block goes on
        block.inside_ = false;
      }
    }
  };

  bool inside_ = false;
  pid_t process_ = 0;
};

}  // namespace

void define_block(py::module_& module) {
  py::class_<Block>(module, "Block")
      .def(py::init<>())
      .def_property_readonly("is_inside", &Block::is_inside)
      .def_property_readonly("is_of_parent", &Block::is_of_parent)
      .def("enter", &Block::enter, py::arg("function"), py::pos_only())
      .def("exit", &Block::exit, py::arg("function"), py::arg("kind"), py::arg("error"), py::arg("traceback"), py::pos_only());
}

}  // namespace torchprof::bindings
