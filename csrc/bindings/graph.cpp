// Whether an autograd graph is let go of.
#include <ATen/SequenceNumber.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/construct.h"
#include "bindings/tensors.h"
#include "record/pointer_set.h"

namespace torchprof::bindings {

namespace py = pybind11;
using namespace py::literals;

namespace {

using torch::autograd::FunctionPostHook;
using torch::autograd::Node;
using torch::autograd::variable_list;
using NodePtr = decltype(torch::autograd::Edge::function);  // which kind of pointer depends on the version of PyTorch
using Nodes = std::unordered_set<Node*>;

// Hangs on a node and is destroyed with it. A weak pointer would not do: PyTorch's own keep the tensors that a node has saved.
struct LivenessHook : FunctionPostHook {
  LivenessHook(Node* node, std::shared_ptr<Nodes> alive) : node(node), alive(std::move(alive)) { this->alive->insert(node); }
  ~LivenessHook() override { alive->erase(node); }
  variable_list operator()(const variable_list& outputs, const variable_list&) override { return outputs; }

  Node* const node;
  const std::shared_ptr<Nodes> alive;
};

// The nodes that this thread makes from now on, as far as they lead to some tensors.
class GraphWatch {
 public:
  GraphWatch() : since_(at::sequence_number::peek()), thread_(at::RecordFunction::currentThreadId()) {}
  ~GraphWatch() { take_hooks_back(); }
  GraphWatch(const GraphWatch&) = delete;
  GraphWatch& operator=(const GraphWatch&) = delete;

  void hold(const py::list& roots) {
    for (const py::handle root : roots) {
      roots_.push_back(unpack(py::reinterpret_borrow<py::object>(root)).grad_fn());
    }
  }

  // Lets go of them, to see what lives on. Backward must have run, if it is to run: hooks would keep gradients.
  void let_go() {
    const std::vector<NodePtr> roots = std::exchange(roots_, {});
    std::vector<Node*> open;
    PointerSet seen;
    const auto visit = [&](Node* node) {
      if (seen.insert(node)) {
        open.push_back(node);
      }
    };
    for (const NodePtr& root : roots) {
      if (is_of_graph(root.get())) {
        visit(root.get());
      }
    }
    while (!open.empty()) {
      Node* const node = open.back();
      open.pop_back();
      bool is_lowest = true;
      for (const torch::autograd::Edge& edge : node->next_edges()) {
        if (is_of_graph(edge.function.get())) {
          is_lowest = false;
          visit(edge.function.get());
        }
      }
      // A node keeps those below it alive, so if any node lives on, a lowest one does.
      if (is_lowest) {
        node->add_post_hook(std::make_unique<LivenessHook>(node, alive_));
      }
    }
  }

  // Whether some of its nodes live on.
  bool lives_on() const { return !alive_->empty(); }

  // The same, for the last time. They are as they were before.
  bool is_alive() {
    take_hooks_back();
    return was_alive_;
  }

 private:
  // A node without edges belongs to a leaf, and one from before to another graph.
  bool is_of_graph(const Node* node) const {
    return node != nullptr && node->num_outputs() != 0 && (node->thread_id() != thread_ || node->sequence_nr() >= since_);
  }

  void take_hooks_back() {
    const std::vector<Node*> nodes(alive_->begin(), alive_->end());
    for (Node* const node : nodes) {
      auto& hooks = node->post_hooks();
      hooks.erase(std::remove_if(hooks.begin(), hooks.end(),
                                 [&](const std::unique_ptr<FunctionPostHook>& hook) {
                                   const auto* const own = dynamic_cast<const LivenessHook*>(hook.get());
                                   return own != nullptr && own->alive == alive_;
                                 }),
                  hooks.end());
      was_alive_ = true;
    }
  }

  const uint64_t since_;
  const uint64_t thread_;
  std::vector<NodePtr> roots_;
  bool was_alive_ = false;
  const std::shared_ptr<Nodes> alive_ = std::make_shared<Nodes>();
};

}  // namespace

void define_graph(py::module_& module) {
  py::class_<GraphWatch>(module, "GraphWatch")
      .def("__init__", &construct_default<GraphWatch>, kMakes)
      .def("hold", &GraphWatch::hold, "roots"_a, py::pos_only())
      .def("let_go", &GraphWatch::let_go)
      .def("lives_on", &GraphWatch::lives_on)
      .def("is_alive", &GraphWatch::is_alive);
}

}  // namespace torchprof::bindings
