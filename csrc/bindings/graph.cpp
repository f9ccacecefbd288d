// Whether an autograd graph was let go of.
#include <ATen/SequenceNumber.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <unordered_set>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/tensors.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

// The nodes that this thread makes from now on, as far as they lead to some tensors. They are not kept.
class GraphWatch {
 public:
  GraphWatch() : since_(at::sequence_number::peek()), thread_(at::RecordFunction::currentThreadId()) {}

  void look_at(const py::list& roots) {
    std::vector<std::shared_ptr<torch::autograd::Node>> open;
    for (const py::handle root : roots) {
      open.push_back(unpack(py::reinterpret_borrow<py::object>(root)).grad_fn());
    }
    std::unordered_set<const torch::autograd::Node*> seen;
    while (!open.empty()) {
      const std::shared_ptr<torch::autograd::Node> node = std::move(open.back());
      open.pop_back();
      // A node without edges is that of a leaf, which belongs to the leaf. One from before is not of this graph.
      if (node == nullptr || node->num_outputs() == 0 || (node->thread_id() == thread_ && node->sequence_nr() < since_) ||
          !seen.insert(node.get()).second) {
        continue;
      }
      nodes_.push_back(node);
      for (const torch::autograd::Edge& edge : node->next_edges()) {
        open.push_back(edge.function);
      }
    }
  }

  bool is_alive() const {
    for (const std::weak_ptr<torch::autograd::Node>& node : nodes_) {
      if (!node.expired()) {
        return true;
      }
    }
    return false;
  }

 private:
  const uint64_t since_;
  const uint64_t thread_;
  std::vector<std::weak_ptr<torch::autograd::Node>> nodes_;
};

}  // namespace

void define_graph(py::module_& module) {
  py::class_<GraphWatch>(module, "GraphWatch")
      .def(py::init<>())
      .def("look_at", &GraphWatch::look_at, "roots"_a, py::pos_only())
      .def("is_alive", &GraphWatch::is_alive);
}

}  // namespace torchprof::bindings
