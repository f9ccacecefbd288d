#include "bindings/block.h"

#include <optional>

#include "bindings/bindings.h"
#include "bindings/construct.h"
#include "session/session.h"

namespace torchprof::bindings {

namespace py = pybind11;

namespace {

constexpr int kCalls = 3;  // two interrupts in a row do not keep a function from coming to its end

// What came of calling a function again and again.
struct Outcome {
  py::object result;                            // nullptr: it never came to its end
  std::optional<py::error_already_set> raised;  // at first
};

template <typename... Arguments>
Outcome call_until_done(const py::object& function, const Arguments&... arguments) {
  Outcome outcome;
  for (int call = 0; call < kCalls && !outcome.result; ++call) {
    try {
      outcome.result = function(arguments...);
    } catch (py::error_already_set& error) {
      if (!outcome.raised) {
        outcome.raised.emplace(error);
      }
    }
  }
  return outcome;
}

// The exception of the program goes on; what is wrong with the end of the recording is a warning beside it.
void warn(const py::error_already_set& error) {
  const py::str type = error.type().attr("__name__");
  const py::str message = py::str("the recording could not be ended as it should: {}: {}").format(type, py::str(error.value()));
  if (PyErr_WarnEx(PyExc_RuntimeWarning, message.cast<std::string>().c_str(), 1) != 0) {
    throw py::error_already_set();
  }
}

}  // namespace

struct Block::End {
  const py::object& self;
  Block& block;
  ~End() {
    if (abandon(self.ptr())) {  // false: this is the wrong thread, and the block goes on
      block.inside_ = false;
    }
  }
};

py::object Block::enter(const py::object& self, const py::object& function) {
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

py::object Block::exit(const py::object& self, const py::object& function, const py::object& kind, const py::object& error,
                       const py::object& traceback) {
  if (self.cast<Block&>().is_of_parent()) {
    return py::bool_(false);
  }
  const End end{self, self.cast<Block&>()};
  const Outcome outcome = call_until_done(function, kind, error, traceback);
  if (!outcome.raised) {
    return outcome.result;
  }
  const bool fails = !outcome.result && outcome.raised->matches(PyExc_Exception);  // it was no interrupt: that comes once
  if (kind.is_none() || !fails) {
    throw *outcome.raised;
  }
  warn(*outcome.raised);
  return py::bool_(false);
}

py::object Block::finish(const py::object& function) {
  const Outcome outcome = call_until_done(function);
  if (outcome.raised) {
    throw *outcome.raised;
  }
  return outcome.result;
}

void define_block(py::module_& module) {
  py::class_<Block>(module, "Block")
      .def("__init__", &construct_default<Block>, kMakes)
      .def_property_readonly("is_inside", &Block::is_inside)
      .def_property_readonly("is_of_parent", &Block::is_of_parent)
      .def_readonly("recorded", &Block::recorded)
      .def("forget", [](Block& block) { block.recorded = py::none(); })
      .def("enter", &Block::enter, py::arg("function"), py::pos_only())
      .def("exit", &Block::exit, py::arg("function"), py::arg("kind"), py::arg("error"), py::arg("traceback"), py::pos_only())
      .def_static("finish", &Block::finish, py::arg("function"), py::pos_only());
}

}  // namespace torchprof::bindings
