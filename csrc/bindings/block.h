// A `with` block inside which recordings begin and end. An interrupt (Ctrl-C, or what the handler of any signal raises) is raised between
// any two instructions of Python, so `__enter__` written in Python may be left with a recording running, and `__exit__` not come that far.
// No instruction of Python stands between these two and the `with`:
//
//   with ──► enter() ──► __enter__ in Python      where it raises, its recording ends without a trace
//   with ──► exit()  ──► __exit__ in Python       where it raises, it is called again and finishes; then the exception goes on. Whatever
//                                                 happens, no recording is left afterwards
//   step ──► finish() ──► a function in Python    the same
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace torchprof::bindings {

class Block {
 public:
  bool is_inside() const { return inside_ && process_ == getpid(); }
  bool is_of_parent() const { return process_ != 0 && process_ != getpid(); }  // this is a fork of the process that entered it

  static pybind11::object enter(const pybind11::object& self, const pybind11::object& function);
  static pybind11::object exit(const pybind11::object& self, const pybind11::object& function, const pybind11::object& kind,
                               const pybind11::object& error, const pybind11::object& traceback);

  // Calls a function that goes on where it was broken off, until it comes to its end or has raised too often. Raises what it raised first.
  static pybind11::object finish(const pybind11::object& function);

  // What the last recording was stopped with: it is here before anything of Python runs again. None: nothing, or it was forgotten.
  pybind11::object recorded = pybind11::none();

 private:
  struct End;

  bool inside_ = false;
  pid_t process_ = 0;
};

}  // namespace torchprof::bindings
