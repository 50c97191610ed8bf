#pragma once
// The gradients of a call: which are wanted, where the kernels write them, what the caller gets.
#include "torch/arguments.h"

namespace fusedml::binding {

/// One output: what the caller gets, and what the kernels write, the same tensor where the caller's
/// is of the kernels' type.
class Gradient {
 public:
  /// An output that nobody needs.
  explicit Gradient(Tensor none) : result_(std::move(none)) {}
  /// Shaped like `input`, contiguous; the kernels write the type `stored`.
  Gradient(const Call& call, const Tensor& input, ScalarType stored);

  void* pointer() const { return written_ ? written_->mutable_data_ptr() : nullptr; }
  Tensor result();

 private:
  Tensor result_;
  std::optional<Tensor> written_;
};

/// Of embeddings; an output that nobody needs is empty.
Gradient gradient_of(const Call& call, bool is_needed, const Tensor& embeddings);

struct Gradients {
  Gradient anchors, references, logit;

  /// needs: anchors, references, logit.  A self problem has no gradient of references.
  Gradients(const Call& call, const Tensor& anchors, const std::optional<Tensor>& references,
            const Tensor& logit, const std::vector<bool>& needs);

  GradientOutputs pointers() const;
};

}  // namespace fusedml::binding
