#pragma once
// Host side of row_divergences and its gradient.
#include "kernels/forward.cuh"
#include "kernels/gradient.cuh"
#include "kernels/row_divergences.cuh"

namespace fusedml {

template <class Number>
MatrixView<typename Number::Element> second_view(const SecondProduct& second, int64_t n) {
  using Element = typename Number::Element;
  return MatrixView<Element>::of(static_cast<const Element*>(second.rows), n, second.d);
}

template <class Number>
size_t divergences_workspace(const Problem& problem, const SweepOptions& options) {
  return sweep_workspace<Number, DivergenceReduction<Number>>(problem, options);
}

template <class Number>
cudaError_t divergences(const Problem& problem, const SecondProduct& second, void* losses,
                        void* log_sums, void* memory, cudaStream_t stream,
                        const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = DivergenceReduction<Number>;
  if (problem.n == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = Sweep<Number, Reduction>::take(problem, options, workspace);
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  arguments.parameters.second = second_view<Number>(second, problem.n);
  return sweep.launch(problem.measure, arguments, stream, [&](const auto& slots) {
    return launch(finish_divergences_kernel<Real>, slots.grid(), dim3(kFinishThreads), 0, stream,
                  slots, problem.n, static_cast<Real*>(losses), static_cast<Real*>(log_sums));
  });
}

/// The gradient of one of the two matrices, and that of the logits' numbers along with it.
template <class Number>
struct DivergenceGradient {
  using Real = typename Number::Real;
  bool is_of_second;
  Problem problem;  ///< whose embeddings are the matrix of which the gradient is
  SecondProduct other;
  GradientOutputs outputs;  ///< anchors: of that matrix
  GradientProblem<Number> gradient;

  static DivergenceGradient take(bool is_of_second, const Problem& given,
                                 const SecondProduct& second, const GradientOutputs& outputs,
                                 Workspace& workspace, const GradientOptions& options) {
    DivergenceGradient result{is_of_second, given, second, outputs, {}};
    if (is_of_second) {
      result.problem.anchors = second.rows;
      result.problem.d = second.d;
      result.other = {given.anchors, given.d};
    }
    const auto typed = TypedProblem<Number>::take(result.problem, workspace);
    result.gradient = GradientProblem<Number>::take(result.problem, typed, outputs, options,
                                                    workspace, WeightKind::kOfOneKernel);
    return result;
  }

  /// vectors: by DivergenceVector.
  cudaError_t launch(const RowVectors<Real, kNumDivergenceVectors>& vectors,
                     cudaStream_t stream) const {
    // a weight of the second product may be KL times as large as one of the first: far from the
    // end of fp16's range, below thousands
    const RowGradientSizes<Real> sizes{vectors.vector[kGradDivergence], problem.n, nullptr, 0};
    if (const cudaError_t error =
            launch_weight_scale(gradient, sizes, stream, 1, /*has_one_scale=*/true))
      return error;
    DivergenceSource<Number> source{};
    source.second = second_view<Number>(other, problem.n);
    source.is_of_second = is_of_second;
    return gradient.launch(problem, source, vectors, vectors, outputs, stream);
  }
};

/// run(gradient) for each matrix whose gradient is wanted, in the same memory; that of the numbers
/// comes with the first.
template <class Number, class Run>
cudaError_t for_both_products(const Problem& problem, const SecondProduct& second,
                              const GradientOutputs& outputs, Workspace& workspace,
                              const GradientOptions& options, const Run& run) {
  const size_t begin = workspace.used();
  for (const bool is_of_second : {false, true}) {
    const GradientOutputs wanted{is_of_second ? outputs.references : outputs.anchors, nullptr,
                                 is_of_second ? nullptr : outputs.logit};
    if (wanted.anchors == nullptr && wanted.logit == nullptr) continue;
    workspace.return_to(begin);
    const auto gradient =
        DivergenceGradient<Number>::take(is_of_second, problem, second, wanted, workspace, options);
    if (const cudaError_t error = run(gradient)) return error;
  }
  return cudaSuccess;
}

template <class Number>
size_t divergences_gradient_workspace(const Problem& problem, const SecondProduct& second,
                                      const GradientOutputs& outputs,
                                      const GradientOptions& options) {
  Workspace workspace(nullptr);
  for_both_products<Number>(problem, second, outputs, workspace, options,
                            [](const auto&) { return cudaSuccess; });
  return workspace.bytes();
}

template <class Number>
cudaError_t divergences_gradient(const Problem& problem, const SecondProduct& second,
                                 const void* losses, const void* log_sums, const void* losses_grad,
                                 const GradientOutputs& outputs, void* memory, cudaStream_t stream,
                                 const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  RowVectors<Real, kNumDivergenceVectors> vectors{};
  vectors.vector[kGradDivergence] = static_cast<const Real*>(losses_grad);
  vectors.vector[kLseFirst] = static_cast<const Real*>(log_sums);
  vectors.vector[kLseSecond] = static_cast<const Real*>(log_sums) + problem.n;
  vectors.vector[kDivergence] = static_cast<const Real*>(losses);
  return for_both_products<Number>(
      problem, second, outputs, workspace, options,
      [&](const auto& gradient) { return gradient.launch(vectors, stream); });
}

}  // namespace fusedml
