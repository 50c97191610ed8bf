#include "torch/gradients.h"

#include "torch/runtime.h"

namespace fusedml::binding {

Gradient gradient_of(const Call& call, bool is_needed, const Tensor& input) {
  return is_needed ? Gradient(call, input, call.element()) : Gradient(call.none());
}

Gradient::Gradient(const Call& call, const Tensor& input, ScalarType stored)
    : result_(torch::stable::new_empty(input, input.sizes())) {
  const bool is_direct = is_on_device(result_) && result_.scalar_type() == stored;
  const auto sizes = input.sizes();
  written_ = is_direct ? result_ : call.new_tensor({sizes.begin(), sizes.end()}, stored);
}

Tensor Gradient::result() {
  // a logit on the CPU is the one gradient that has to be waited for
  if (written_ && written_->get() != result_.get()) torch::stable::copy_(result_, *written_);
  return result_;
}

Gradients::Gradients(const Call& call, const Tensor& anchors,
                     const std::optional<Tensor>& references, const Tensor& logit,
                     const std::vector<bool>& needs)
    : anchors(gradient_of(call, needs.at(0), anchors)),
      references(references ? gradient_of(call, needs.at(1), *references) : Gradient(call.none())),
      logit(needs.at(2) ? Gradient(call, logit, ScalarType::Double)
                        : Gradient(torch::stable::new_empty(logit, {0}))) {}

GradientOutputs Gradients::pointers() const {
  return {anchors.pointer(), references.pointer(), static_cast<double*>(logit.pointer())};
}

}  // namespace fusedml::binding
