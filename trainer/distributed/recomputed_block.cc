#include "trainer/distributed/recomputed_block.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>

#include "model/layers.h"

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Everything the second forward needs beside x.
struct Call : torch::CustomClassHolder {
  const BlockWeights* weights = nullptr;
  BlockBody body;
  torch::Dtype dtype = torch::kFloat32;  // of matrix products: a backward may run on another thread
  Tensor random_state;
};

Tensor random_state(torch::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(torch::Device device, const Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

/// The weights while they are needed.
class Gathered {
 public:
  Gathered(const BlockWeights& weights, Pass pass) : weights_(weights) {
    if (weights_.enter) weights_.enter(pass);
  }
  ~Gathered() {
    if (weights_.leave) weights_.leave();
  }
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;

 private:
  const BlockWeights& weights_;
};

struct RecomputedBlock : torch::autograd::Function<RecomputedBlock> {
  static Tensor forward(AutogradContext* context,
                        const c10::intrusive_ptr<Call>& call,
                        const Tensor& x,
                        const at::TensorList /*kept*/) {
    const at::AutoGradMode no_graph(false);
    call->random_state = random_state(x.device());
    context->save_for_backward({x});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->saved_data["x_learns"] = x.requires_grad();
    const Gathered gathered(*call->weights, Pass::kLearningForward);
    return call->body(x);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto holder = context->saved_data["call"].toCapsule();
    const Call& call = static_cast<const Call&>(*holder);
    const BlockWeights& weights = *call.weights;
    const bool x_learns = context->saved_data["x_learns"].toBool();
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_(x_learns);
    const Tensor after = random_state(x.device());
    variable_list wanted, found;
    if (x_learns) wanted.push_back(x);
    wanted.insert(wanted.end(), weights.parameters.begin(), weights.parameters.end());
    {
      const Gathered gathered(weights, Pass::kBackward);
      const at::AutoGradMode graph(true);
      const ComputeDtype dtype(call.dtype);
      set_random_state(x.device(), call.random_state);
      const Tensor y = call.body(x);
      set_random_state(x.device(), after);
      found = torch::autograd::grad(
          {y}, wanted, {grads[0]}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    }
    variable_list result = {Tensor(), x_learns ? found.front() : Tensor()};
    variable_list of_parameters(found.begin() + (x_learns ? 1 : 0), found.end());
    if (weights.reduce) of_parameters = weights.reduce(of_parameters);
    result.insert(result.end(), of_parameters.begin(), of_parameters.end());
    return result;
  }
};

}  // namespace

torch::Tensor recomputed_block(const BlockWeights& weights, const torch::Tensor& x, const BlockBody& body) {
  const bool learns = torch::GradMode::is_enabled() && (x.requires_grad() || !weights.kept.empty());
  if (!learns) {
    const torch::NoGradGuard no_grad;
    const Gathered gathered(weights, Pass::kForward);
    return body(x);
  }
  auto call = c10::make_intrusive<Call>();
  call->weights = &weights;
  call->body = body;
  call->dtype = compute_dtype();
  return RecomputedBlock::apply(call, x, at::TensorList(weights.kept));
}

}  // namespace pocketvlm
