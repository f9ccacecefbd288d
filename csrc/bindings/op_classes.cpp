// The names of ops, and what they are to a count of FLOPs.
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "session/session.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

bool has_tensor(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::TensorType) {
    return true;
  }
  const auto contained = type.containedTypes();
  return std::any_of(contained.begin(), contained.end(), [](const auto& inner) { return has_tensor(*inner); });
}

// No tensor comes in, or none comes out; or what comes out is a view of what came in.
bool moves_no_data(const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();
  const auto& returns = schema.returns();
  const auto tensor = [](const c10::Argument& argument) { return has_tensor(*argument.type()); };
  const auto written = [](const c10::Argument& argument) {
    return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  };
  const auto view = [](const c10::Argument& argument) {
    return argument.alias_info() != nullptr && !argument.alias_info()->isWrite();
  };
  if (std::none_of(arguments.begin(), arguments.end(), tensor)) {
    return true;
  }
  if (std::none_of(returns.begin(), returns.end(), tensor) && std::none_of(arguments.begin(), arguments.end(), written)) {
    return true;
  }
  return !returns.empty() && std::all_of(returns.begin(), returns.end(), view);
}

// Made of other ops on every device: no backend has a kernel of its own, but for layouts whose kernels are made of other ops too.
bool is_composite(const c10::OperatorHandle& op) {
  static const std::vector<c10::DispatchKey> backends = {c10::DispatchKey::MPS,  c10::DispatchKey::XLA,
                                                         c10::DispatchKey::HPU,  c10::DispatchKey::PrivateUse1,
                                                         c10::DispatchKey::CUDA, c10::DispatchKey::CPU};
  return op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd) &&
         std::none_of(backends.begin(), backends.end(), [&](c10::DispatchKey key) { return op.hasKernelForDispatchKey(key); });
}

// The names of all ops, and of those that compute nothing themselves or have one of these tags, in all their overloads. An overload that
// writes into a given tensor does what the op does.
std::pair<std::set<std::string>, std::set<std::string>> op_names(const std::vector<int>& free_tags) {
  std::set<std::string> all, working;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (!op.has_value() || !op->hasSchema()) {
      continue;
    }
    all.insert(name.name);
    const bool into_given = name.overload_name == "out" || name.overload_name.ends_with("_out");
    const auto& tags = op->getTags();
    const bool tagged = std::any_of(tags.begin(), tags.end(), [&](at::Tag tag) {
      return std::find(free_tags.begin(), free_tags.end(), static_cast<int>(tag)) != free_tags.end();
    });
    if (!into_given && !tagged && !is_composite(*op) && !moves_no_data(op->schema())) {
      working.insert(name.name);
    }
  }
  std::set<std::string> idle;
  std::set_difference(all.begin(), all.end(), working.begin(), working.end(), std::inserter(idle, idle.end()));
  return {std::move(all), std::move(idle)};
}

}  // namespace

void define_op_classes(py::module_& module) {
  module.def(
      "set_op_classes",
      [](const OpClasses::Names& counted, const OpClasses::Names& free, OpClasses::Names with_arguments) {
        set_op_classes(OpClasses(counted, free, std::move(with_arguments)));
      },
      py::kw_only(), "counted"_a, "free"_a, "with_arguments"_a);
  module.def("op_names", &op_names, "free_tags"_a, py::pos_only());
}

}  // namespace torchprof::bindings
