#pragma once
// Host side of pair_gradient.
#include "kernels/hopper_gradient.cuh"

namespace fusedml {

template <class Number>
size_t gradient_workspace(const Problem& given, const GradientOutputs& outputs,
                          const GradientOptions& options) {
  if constexpr (kHasHopper<Number>)
    if (choose_engine(given, outputs, options.engine).engine == Engine::kHopper)
      return hopper_gradient_workspace<Number>(given, outputs, options);
  Workspace workspace(nullptr);
  const Problem problem =
      GroupColumns<Number>::take(given, workspace, outputs.references != nullptr).problem;
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t statistics_gradient(const Problem& given, const void* statistics,
                                const void* statistics_grad, const GradientOutputs& outputs,
                                void* memory, cudaStream_t stream, const GradientOptions& options) {
  using Real = typename Number::Real;
  if constexpr (kHasHopper<Number>)
    if (choose_engine(given, outputs, options.engine).engine == Engine::kHopper)
      return hopper_gradient<Number>(given, statistics, statistics_grad, outputs, memory, stream,
                                     options);
  Workspace workspace(memory);
  const auto columns = GroupColumns<Number>::take(given, workspace, outputs.references != nullptr);
  const Problem& problem = columns.problem;
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace);
  if (const cudaError_t error = columns.gather(stream)) return error;
  if (const cudaError_t error = gradient.typed.prepare(stream)) return error;
  const auto* first_grad = static_cast<const Real*>(statistics_grad);
  const int64_t count = (is_of_groups(problem.measure) ? 2 : 3) * problem.n;
  if (const cudaError_t error =
          launch_weight_scale(gradient, {first_grad, count, nullptr, 0}, stream))
    return error;
  const auto of_anchors = statistics_vectors<Real>(problem, statistics, statistics_grad);
  const RowVectors<Real, kNumWeightVectors> none{};
  const auto& of_references = problem.is_self ? of_anchors : none;
  if (const cudaError_t error = gradient.launch(problem, WeightSource{}, of_anchors, of_references,
                                                columns.outputs(outputs), stream))
    return error;
  return columns.scatter(outputs.references, stream);
}

}  // namespace fusedml
