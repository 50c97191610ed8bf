#pragma once
// From an operator's tensors to what the kernels take.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels/api.h"
#include "torch/runtime.h"

namespace fusedml::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// A string argument as the dispatcher passes it: a handle that the kernel has to delete. TORCH_BOX
/// over std::string would do that too, but leaks a copy in each call (headers of torch 2.13).
using Name = StringHandle;
std::string take(Name name);

/// One call of an operator: the checked, contiguous tensors of its problem, which stay alive until
/// the kernels are enqueued, on the anchors' device and torch's current stream.
class Call {
 public:
  explicit Call(const Tensor& embeddings);
  Call(const Tensor& anchors, const std::optional<Tensor>& references, Name measure);
  /// self_offset: row i ignores column (i + self_offset) modulo m; none: it ignores none.
  Call(const Tensor& anchors, const std::optional<Tensor>& references, const Tensor& anchor_labels,
       const std::optional<Tensor>& reference_labels, Name measure,
       std::optional<int64_t> self_offset);

  /// All rows with each other by dot products; without labels none are equal.
  Call(const Tensor& anchors, const std::optional<Tensor>& labels);

  /// Classes of which each has several vectors, [C, K, d]; group: how a row's measures with those
  /// of a class become one.
  Call(const Tensor& anchors, const Tensor& vectors, const Tensor& labels, Name group,
       const std::optional<Tensor>& sharpness);

  /// [4]: by value from the CPU, by pointer from the device, so that neither waits for the other.
  void set_logit(const Tensor& logit, const char* name = "logit");
  void set_thresholds(const std::optional<Tensor>& thresholds);
  void set_extent(const std::optional<Tensor>& extent);
  void set_labels_sorted(bool are_sorted) { problem_.labels_sorted = are_sorted; }

  RowHead row_head(Name name, const Tensor& parameters);
  /// others: [n, d], or none.  values: [n, count], or none of a grid.  numbers: those of
  /// ThresholdTerms, [6].
  Thresholds thresholds(const std::optional<Tensor>& others, const std::optional<Tensor>& values,
                        int64_t count, Name form, const std::vector<double>& numbers);
  /// terms: [K, 9] on the CPU, as fusedml.terms.packed() has them.
  PairSums pair_sums(const Tensor& terms, const std::optional<Tensor>& shifts, bool both_sides);
  /// values: [2, 3, n].
  PairWindows windows(const Tensor& values, int64_t width);
  /// rows: [n, d], one for each of the anchors, of any width.
  SecondProduct second_product(const Tensor& rows, const char* name);
  ListedPairs listed_pairs(const Tensor& rows, const Tensor& columns);
  /// The order of [count] indices; equal ones keep theirs.
  SortedPairs sorted(const Tensor& indices);
  /// Of the embeddings into unit rows of another type.  order and places: of their rows, or none.
  Normalization normalization(ScalarType dtype, const std::optional<Tensor>& order,
                              const std::optional<Tensor>& places);

  const Problem& problem() const { return problem_; }
  int64_t n() const { return problem_.n; }
  int64_t m() const { return problem_.num_references(); }
  cudaStream_t stream() const { return scope_.stream(); }

  /// `tensor` with `count` reals or integers on the device, contiguous.
  const void* reals(const Tensor& tensor, const char* name, int64_t count);
  const int64_t* integers(const Tensor& tensor, const char* name, int64_t count);
  /// Labels [rows], or sets [rows, W] with the W of all labels of the call.
  const int64_t* labels(const Tensor& tensor, const char* name, int64_t rows);
  const void* numbers(const Tensor& tensor, const char* name, ScalarType dtype, int64_t count);

  ScalarType element() const { return element_; }  ///< how the kernels store embeddings
  ScalarType real() const { return real_; }        ///< and statistics

  Tensor new_tensor(std::vector<int64_t> shape, ScalarType dtype) const;
  Tensor new_reals(std::vector<int64_t> shape) const;
  Tensor new_counts() const;
  Tensor none() const;  ///< an output that nobody needs
  /// Memory for one launch; torch's allocator gives it to nobody else before the stream is done.
  void* workspace(size_t bytes);

 private:
  void set_embeddings(const Tensor& tensor, const char* name, const void*& pointer, int64_t& rows);
  const void* embeddings(const Tensor& tensor, const char* name);
  void set_self_offset(std::optional<int64_t> self_offset);
  void set_sharpness(const std::optional<Tensor>& sharpness);
  bool is_beside_anchors(const Tensor& tensor) const;
  const void* keep(Tensor tensor);
  Tensor on_device(const Tensor& tensor, const char* name, ScalarType dtype, int64_t count);

  Tensor anchors_;
  int32_t device_;
  DeviceScope scope_;
  ScalarType element_, real_;
  Problem problem_{};
  std::vector<Tensor> kept_;
  std::optional<Tensor> workspace_;
};

PositivePairHead take_positive_pair_head(Name name);

}  // namespace fusedml::binding
