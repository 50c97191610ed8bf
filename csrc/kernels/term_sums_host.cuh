#pragma once
// Host side of pair_sums and its gradient.
#include "kernels/term_sums.cuh"
#include "kernels/two_sided.cuh"

namespace fusedml {

/// A line's numbers, [rows of a side], as RowVectors want them: the shifts of a side's lines.
template <class Real>
RowVectors<Real, 2> shifts_of(const PairSums& sums, int64_t num_lines, int64_t first_line) {
  if (sums.shifts == nullptr) return {};
  const auto* shifts = static_cast<const Real*>(sums.shifts) + first_line;
  return {{shifts, shifts + num_lines}};
}

template <class Number>
size_t term_sums_workspace(const Problem& problem, const PairSums& sums,
                           const SweepOptions& options) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  LineSweep<Number, TermSumsReduction<Number>>::take(problem, sums.has_columns(problem), options,
                                                     workspace);
  return workspace.bytes();
}

template <class Number>
cudaError_t term_sums(const Problem& problem, const PairSums& sums, const PairSumsOutputs& outputs,
                      void* memory, cudaStream_t stream, const SweepOptions& options) {
  using Real = typename Number::Real;
  using Reduction = TermSumsReduction<Number>;
  const int64_t lines = sums.num_lines(problem);
  const bool has_columns = sums.has_columns(problem);
  if (lines == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto sweep = LineSweep<Number, Reduction>::take(problem, has_columns, options, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  SweepArguments<Number, Reduction> arguments{};
  arguments.problem = typed.pairs;
  arguments.parameters = LineTerms<Real>::of(sums);
  arguments.anchor_vectors = shifts_of<Real>(sums, lines, 0);
  if (problem.is_self) arguments.reference_vectors = arguments.anchor_vectors;
  if (has_columns) arguments.reference_vectors = shifts_of<Real>(sums, lines, problem.n);
  return sweep.launch(
      problem.measure, arguments, stream,
      [&](const auto& slots, int64_t first_line, const int64_t* extent) {
        const auto at_line = [&](auto* first) { return first ? first + first_line : first; };
        const TermSumsOutputs<Real> out{at_line(static_cast<Real*>(outputs.sums)),
                                        at_line(static_cast<Real*>(outputs.slopes)),
                                        at_line(outputs.counts), at_line(outputs.numbers), lines};
        return launch(finish_term_sums_kernel<Real>, slots.grid(), dim3(kFinishThreads), 0, stream,
                      slots, extent, arguments.parameters, out);
      });
}

template <class Number>
size_t term_sums_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                    const GradientOptions& options) {
  Workspace workspace(nullptr);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  GradientProblem<Number>::take(problem, typed, outputs, options, workspace,
                                WeightKind::kOfOneKernel);
  return workspace.bytes();
}

/// What the weights need of a side's lines.
template <class Real>
RowVectors<Real, kNumTermVectors> term_vectors(const PairSums& sums, const LineTerms<Real>& terms,
                                               const Real* sums_grad, int64_t num_lines,
                                               int64_t first_line) {
  RowVectors<Real, kNumTermVectors> result{};
  const auto shifts = shifts_of<Real>(sums, num_lines, first_line);
  for (int kind = 0; kind < 2; ++kind) {
    result.vector[kShift + kind] = shifts.vector[kind];
    for (int j = 0; j < kMostTermsOfKind; ++j) {
      const int64_t place = terms.place[kind][j];
      if (place >= 0)
        result.vector[kGradTerm + kMostTermsOfKind * kind + j] =
            sums_grad + place * num_lines + first_line;
    }
  }
  return result;
}

template <class Number>
cudaError_t term_sums_gradient(const Problem& problem, const PairSums& sums, const void* slopes,
                               const void* sums_grad, const GradientOutputs& outputs,
                               void* shifts_grad, void* memory, cudaStream_t stream,
                               const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto gradient = GradientProblem<Number>::take(problem, typed, outputs, options, workspace,
                                                      WeightKind::kOfOneKernel);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  const auto terms = LineTerms<Real>::of(sums);
  const auto* grads = static_cast<const Real*>(sums_grad);
  const int64_t lines = sums.num_lines(problem);
  if (shifts_grad != nullptr && lines > 0) {
    const dim3 grid(unsigned(ceil_div(lines, int64_t(kFinishThreads))));
    const cudaError_t error =
        launch(shifts_gradient_kernel<Real>, grid, dim3(kFinishThreads), 0, stream, terms, lines,
               static_cast<const Real*>(slopes), grads, static_cast<Real*>(shifts_grad));
    if (error != cudaSuccess) return error;
  }
  if (outputs.anchors == nullptr && outputs.references == nullptr && outputs.logit == nullptr)
    return cudaSuccess;
  const RowGradientSizes<Real> sizes{grads, sums.num_terms * lines, nullptr, 0};
  if (const cudaError_t error = launch_weight_scale(gradient, sizes, stream, steepness(sums)))
    return error;
  const auto of_anchors = term_vectors(sums, terms, grads, lines, 0);
  RowVectors<Real, kNumTermVectors> of_references{};
  if (problem.is_self) of_references = of_anchors;
  if (sums.has_columns(problem)) of_references = term_vectors(sums, terms, grads, lines, problem.n);
  TermSource<Real> source{};
  source.terms = terms;
  return gradient.launch(problem, source, of_anchors, of_references, outputs, stream,
                         sums.has_columns(problem));
}

}  // namespace fusedml
