#include "torch/arguments.h"

#include <torch/headeronly/util/Exception.h>

#include <array>
#include <tuple>
#include <utility>

#include "torch/runtime.h"

namespace fusedml::binding {
namespace {

template <class Kind, size_t kCount>
Kind find(const std::array<std::pair<const char*, Kind>, kCount>& kinds, const std::string& name,
          const char* what) {
  std::string choices;
  for (const auto& [known, kind] : kinds) {
    if (name == known) return kind;
    choices += std::string(choices.empty() ? "" : ", ") + known;
  }
  STD_TORCH_CHECK(false, "fusedml: ", what, " must be one of ", choices, ", got ", name);
  return kinds[0].second;
}

Measure measure_of(const std::string& name) {
  static constexpr std::array<std::pair<const char*, Measure>, 5> kMeasures{{
      {"dot", Measure::kDot},
      {"euclidean", Measure::kEuclidean},
      {"squared_euclidean", Measure::kSquaredEuclidean},
      {"angular_margin", Measure::kAngularMargin},
      {"circle", Measure::kCircle},
  }};
  return find(kMeasures, name, "measure");
}

Measure measure_of_groups(const std::string& name) {
  static constexpr std::array<std::pair<const char*, Measure>, 2> kMeasures{{
      {"maximum", Measure::kMaximum},
      {"soft_maximum", Measure::kSoftMaximum},
  }};
  return find(kMeasures, name, "group");
}

ThresholdForm form_of(const std::string& name) {
  static constexpr std::array<std::pair<const char*, ThresholdForm>, 4> kForms{{
      {"hinge", ThresholdForm::kHinge},
      {"softplus", ThresholdForm::kSoftplus},
      {"sigmoid", ThresholdForm::kSigmoid},
      {"pulse", ThresholdForm::kPulse},
  }};
  return find(kForms, name, "form");
}

/// The type that the kernels compute `dtype` in, and how they store it.
std::pair<NumberType, ScalarType> number_type_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::BFloat16:
      return {NumberType::kBf16, dtype};
    case ScalarType::Half:
      return {NumberType::kFp16, dtype};
    case ScalarType::Double:
      return {NumberType::kFp64, dtype};
    case ScalarType::Float:
      switch (float32_precision()) {
        case Float32Precision::kHighest:
          return {NumberType::kFp32, dtype};
        case Float32Precision::kHigh:
          return {NumberType::kTf32, dtype};
        case Float32Precision::kMedium:  // rounded once, instead of in every tile
          return {NumberType::kBf16, ScalarType::BFloat16};
      }
      break;
    default:
      break;
  }
  STD_TORCH_CHECK(false, "fusedml: anchors must be float16, bfloat16, float32 or float64, got ",
                  dtype);
  return {};
}

int32_t device_of(const Tensor& anchors) {
  STD_TORCH_CHECK(is_on_device(anchors),
                  "fusedml: anchors must be on the GPU like the other tensors");
  return anchors.get_device_index();
}

}  // namespace

std::string take(Name name) {
  size_t length = 0;
  const char* characters = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(name, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(name, &characters));
  std::string result(characters, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(name));
  return result;
}

Call::Call(const Tensor& embeddings)
    : anchors_(embeddings), device_(device_of(embeddings)), scope_(device_) {
  std::tie(problem_.number_type, element_) = number_type_of(embeddings.scalar_type());
  real_ = element_ == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(embeddings.dim() == 2 && embeddings.size(1) > 0,
                  "fusedml: anchors must be [n, d] with d >= 1, got ", embeddings.dim(),
                  " dimensions");
  problem_.n = embeddings.size(0);
  problem_.d = embeddings.size(1);
}

Call::Call(const Tensor& anchors, const std::optional<Tensor>& references, Name measure)
    : Call(anchors) {
  problem_.measure = measure_of(take(measure));
  problem_.is_self = !references.has_value();
  set_embeddings(anchors, "anchors", problem_.anchors, problem_.n);
  if (references) set_embeddings(*references, "references", problem_.references, problem_.m);
}

Call::Call(const Tensor& anchors, const std::optional<Tensor>& references,
           const Tensor& anchor_labels, const std::optional<Tensor>& reference_labels, Name measure,
           std::optional<int64_t> self_offset)
    : Call(anchors, references, measure) {
  set_self_offset(self_offset);
  if (anchor_labels.dim() == 2) problem_.set_words = int(anchor_labels.size(1));
  problem_.anchor_labels = labels(anchor_labels, "anchor_labels", problem_.n);
  if (problem_.is_self) return;
  STD_TORCH_CHECK(reference_labels.has_value(),
                  "fusedml: reference_labels must be given with references, got none");
  problem_.reference_labels = labels(*reference_labels, "reference_labels", problem_.m);
}

Call::Call(const Tensor& anchors, const std::optional<Tensor>& labels) : Call(anchors) {
  problem_.measure = Measure::kDot;
  problem_.is_self = true;
  set_embeddings(anchors, "anchors", problem_.anchors, problem_.n);
  if (labels) problem_.anchor_labels = integers(*labels, "labels", problem_.n);
}

Call::Call(const Tensor& anchors, const Tensor& vectors, const Tensor& labels, Name group,
           const std::optional<Tensor>& sharpness)
    : Call(anchors) {
  problem_.measure = measure_of_groups(take(group));
  set_embeddings(anchors, "anchors", problem_.anchors, problem_.n);
  problem_.anchor_labels = integers(labels, "labels", problem_.n);
  STD_TORCH_CHECK(vectors.dim() == 3 && vectors.size(1) >= kLeastGroupVectors &&
                      vectors.size(1) <= kMostGroupVectors && vectors.size(2) == problem_.d,
                  "fusedml: vectors must be [classes, ", kLeastGroupVectors, " to ",
                  kMostGroupVectors, ", ", problem_.d, "], got ", vectors.dim(), " dimensions of ",
                  vectors.numel(), " elements");
  problem_.references = embeddings(vectors, "vectors");
  problem_.group_size = int(vectors.size(1));
  problem_.m = vectors.size(0) * vectors.size(1);
  set_sharpness(sharpness);
}

void Call::set_self_offset(std::optional<int64_t> self_offset) {
  if (!self_offset) return;
  STD_TORCH_CHECK(*self_offset == 0 ||
                      (!problem_.is_self && *self_offset > 0 && *self_offset < m() && n() <= m()),
                  "fusedml: self_offset must be 0, or from 1 to m - 1 of references [m, d], at "
                  "least as many as anchors, got ",
                  *self_offset, " for m = ", m(), " and ", n(), " anchors");
  problem_.exclude_diagonal = true;
  problem_.self_offset = *self_offset;
}

void Call::set_sharpness(const std::optional<Tensor>& sharpness) {
  problem_.sharpness = 1;
  if (!sharpness) return;
  STD_TORCH_CHECK(sharpness->numel() == 1, "fusedml: sharpness must have 1 element, got ",
                  sharpness->numel());
  if (!sharpness->is_cpu()) {
    problem_.device_sharpness =
        static_cast<const double*>(keep(on_device(*sharpness, "sharpness", ScalarType::Double, 1)));
    return;
  }
  STD_TORCH_CHECK(sharpness->scalar_type() == ScalarType::Double,
                  "fusedml: sharpness must be Double, got ", sharpness->scalar_type());
  problem_.sharpness = *static_cast<const double*>(sharpness->const_data_ptr());
}

void Call::set_embeddings(const Tensor& tensor, const char* name, const void*& pointer,
                          int64_t& rows) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(1) == problem_.d, "fusedml: ", name,
                  " must be [rows, ", problem_.d, "], got ", tensor.dim(),
                  " dimensions of which "
                  "the last is ",
                  tensor.dim() == 0 ? 0 : tensor.size(tensor.dim() - 1));
  rows = tensor.size(0);
  pointer = embeddings(tensor, name);
}

const void* Call::embeddings(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == anchors_.scalar_type(), "fusedml: ", name,
                  " must have the anchors' dtype ", anchors_.scalar_type(), ", got ",
                  tensor.scalar_type());
  STD_TORCH_CHECK(is_beside_anchors(tensor), "fusedml: ", name, " must be on the anchors' device");
  return keep(torch::stable::contiguous(
      tensor.scalar_type() == element_ ? tensor : torch::stable::to(tensor, element_)));
}

bool Call::is_beside_anchors(const Tensor& tensor) const {
  return is_on_device(tensor) && tensor.get_device_index() == device_;
}

const void* Call::keep(Tensor tensor) {
  kept_.push_back(std::move(tensor));
  return kept_.back().const_data_ptr();
}

Tensor Call::on_device(const Tensor& tensor, const char* name, ScalarType dtype, int64_t count) {
  STD_TORCH_CHECK(is_beside_anchors(tensor), "fusedml: ", name, " must be on the anchors' device");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "fusedml: ", name, " must be ", dtype, ", got ",
                  tensor.scalar_type());
  STD_TORCH_CHECK(tensor.numel() == count, "fusedml: ", name, " must have ", count,
                  " elements, got ", tensor.numel());
  return torch::stable::contiguous(tensor);
}

const void* Call::reals(const Tensor& tensor, const char* name, int64_t count) {
  return keep(on_device(tensor, name, real_, count));
}

const void* Call::numbers(const Tensor& tensor, const char* name, ScalarType dtype, int64_t count) {
  return keep(on_device(tensor, name, dtype, count));
}

const int64_t* Call::labels(const Tensor& tensor, const char* name, int64_t rows) {
  const int64_t words = tensor.dim() == 2 ? tensor.size(1) : 0;
  STD_TORCH_CHECK(tensor.dim() <= 2 && words == problem_.set_words && (tensor.dim() == 1 || words),
                  "fusedml: ", name, " must be [", rows,
                  "], or sets of the words of the anchors', ", problem_.set_words, ", got ",
                  tensor.dim(), " dimensions and ", words, " words");
  if (words == 0) return integers(tensor, name, rows);
  return integers(torch::stable::transpose(tensor, 0, 1), name, rows * words);  // word by word
}

const int64_t* Call::integers(const Tensor& tensor, const char* name, int64_t count) {
  return static_cast<const int64_t*>(keep(on_device(tensor, name, ScalarType::Long, count)));
}

void Call::set_logit(const Tensor& logit, const char* name) {
  STD_TORCH_CHECK(logit.numel() == 4, "fusedml: ", name, " must have 4 elements, got ",
                  logit.numel());
  if (logit.is_cpu()) {  // read here and now: the kernels take it by value
    STD_TORCH_CHECK(logit.scalar_type() == ScalarType::Double, "fusedml: ", name,
                    " must be Double, got ", logit.scalar_type());
    const Tensor values = torch::stable::contiguous(logit);
    const auto* numbers = static_cast<const double*>(values.const_data_ptr());
    for (int k = 0; k < 4; ++k) problem_.logit[k] = numbers[k];
    return;
  }
  problem_.device_logit =
      static_cast<const double*>(keep(on_device(logit, name, ScalarType::Double, 4)));
}

void Call::set_thresholds(const std::optional<Tensor>& thresholds) {
  if (thresholds) problem_.thresholds = reals(*thresholds, "thresholds", 2 * n());
}

void Call::set_extent(const std::optional<Tensor>& extent) {
  if (extent) problem_.extent = integers(*extent, "extent", 2);
}

RowHead Call::row_head(Name name, const Tensor& parameters) {
  static constexpr std::array<std::pair<const char*, RowHeadKind>, 4> kHeads{{
      {"softplus_sum", RowHeadKind::kSoftplusSum},
      {"hinge_sum", RowHeadKind::kHingeSum},
      {"cross_entropy", RowHeadKind::kCrossEntropy},
      {"mean_cross_entropy", RowHeadKind::kMeanCrossEntropy},
  }};
  RowHead head{};
  head.kind = find(kHeads, take(name), "head");
  const int64_t count = head.kind == RowHeadKind::kSoftplusSum ? 2 : 0;
  STD_TORCH_CHECK(parameters.numel() >= count, "fusedml: head_parameters must have ", count,
                  " elements for this head, got ", parameters.numel());
  if (count == 0) return head;
  if (!parameters.is_cpu()) {
    head.device_parameters = static_cast<const double*>(
        keep(on_device(parameters, "head_parameters", ScalarType::Double, count)));
    return head;
  }
  STD_TORCH_CHECK(parameters.scalar_type() == ScalarType::Double,
                  "fusedml: head_parameters must be Double, got ", parameters.scalar_type());
  const Tensor values = torch::stable::contiguous(parameters);
  const auto* numbers = static_cast<const double*>(values.const_data_ptr());
  for (int k = 0; k < count; ++k) head.parameters[k] = numbers[k];
  return head;
}

Thresholds Call::thresholds(const std::optional<Tensor>& others,
                            const std::optional<Tensor>& values, int64_t count, Name form,
                            const std::vector<double>& numbers) {
  Thresholds thresholds{};
  if (others) {
    STD_TORCH_CHECK(!problem_.is_self, "fusedml: references must be given beside others");
    STD_TORCH_CHECK(
        others->dim() == 2 && others->size(0) == problem_.n && others->size(1) == problem_.d,
        "fusedml: others must be [", problem_.n, ", ", problem_.d, "], got ", others->dim(),
        " dimensions of ", others->numel(), " elements");
    thresholds.others = embeddings(*others, "others");
  }
  thresholds.terms.form = form_of(take(form));
  STD_TORCH_CHECK(numbers.size() == 6, "fusedml: numbers must be 6, got ", numbers.size());
  thresholds.terms.origin = numbers[0];
  thresholds.terms.unit = numbers[1];
  thresholds.terms.margin = numbers[2];
  thresholds.terms.at_least = numbers[3];
  thresholds.terms.above = numbers[4];
  thresholds.terms.below = numbers[5];
  thresholds.count = count;
  const bool is_grid = thresholds.terms.form == ThresholdForm::kPulse;
  STD_TORCH_CHECK(count >= (is_grid ? 2 : 0), "fusedml: count must be at least ", is_grid ? 2 : 0,
                  ", got ", count);
  // numbers of pairs are kept as reals, exact up to here
  STD_TORCH_CHECK(problem_.num_references() < int64_t(1) << 24,
                  "fusedml: references must be fewer than 2^24, got ", problem_.num_references());
  if (is_grid) return thresholds;
  STD_TORCH_CHECK(values.has_value(), "fusedml: thresholds must be given, got none");
  thresholds.values = reals(*values, "thresholds", problem_.n * count);
  return thresholds;
}

PairSums Call::pair_sums(const Tensor& terms, const std::optional<Tensor>& shifts,
                         bool both_sides) {
  constexpr int64_t kNumbers = 9;
  STD_TORCH_CHECK(terms.is_cpu() && terms.scalar_type() == ScalarType::Double && terms.dim() == 2 &&
                      terms.size(1) == kNumbers,
                  "fusedml: terms must be [K, ", kNumbers, "] of Double on the CPU, got ",
                  terms.dim(), " dimensions of ", terms.scalar_type());
  STD_TORCH_CHECK(is_of_any_measure(problem_.measure),
                  "fusedml: sums of terms need the measure dot, euclidean or squared_euclidean");
  PairSums sums{};
  sums.both_sides = both_sides;
  sums.num_terms = int(terms.size(0));
  int of_kind[2] = {};
  const Tensor packed = torch::stable::contiguous(terms);
  const auto* numbers = static_cast<const double*>(packed.const_data_ptr());
  for (int k = 0; k < sums.num_terms; ++k, numbers += kNumbers) {
    const bool is_positive = numbers[0] != 0;
    STD_TORCH_CHECK(++of_kind[is_positive] <= kMostTermsOfKind, "fusedml: terms must be at most ",
                    kMostTermsOfKind, " of each kind of pair, got ", terms.size(0), " terms");
    sums.is_positive[k] = is_positive;
    sums.terms[k] = {numbers[1], numbers[2], numbers[3],      numbers[4],
                     numbers[5], numbers[6], numbers[7] != 0, numbers[8] != 0};
  }
  if (shifts) sums.shifts = reals(*shifts, "shifts", 2 * sums.num_lines(problem_));
  return sums;
}

PairWindows Call::windows(const Tensor& values, int64_t width) {
  STD_TORCH_CHECK(is_of_any_measure(problem_.measure),
                  "fusedml: windows need the measure dot, euclidean or squared_euclidean");
  STD_TORCH_CHECK(width > 0 && width % PairWindows::kUnit == 0,
                  "fusedml: width must be a multiple of ", PairWindows::kUnit, ", got ", width);
  return {reals(values, "windows", 6 * problem_.n), width};
}

SecondProduct Call::second_product(const Tensor& rows, const char* name) {
  STD_TORCH_CHECK(rows.dim() == 2 && rows.size(0) == problem_.n && rows.size(1) > 0,
                  "fusedml: ", name, " must be [", problem_.n, ", d] with d >= 1, got ", rows.dim(),
                  " dimensions of ", rows.numel(), " elements");
  return {embeddings(rows, name), rows.size(1)};
}

ListedPairs Call::listed_pairs(const Tensor& rows, const Tensor& columns) {
  const int64_t count = rows.numel();
  return {integers(rows, "rows", count), integers(columns, "columns", count), count};
}

SortedPairs Call::sorted(const Tensor& indices) {
  auto [keys, order] = stable_sort(indices);
  return {static_cast<const int64_t*>(keep(torch::stable::contiguous(keys))),
          static_cast<const int64_t*>(keep(torch::stable::contiguous(order)))};
}

Normalization Call::normalization(ScalarType dtype, const std::optional<Tensor>& order,
                                  const std::optional<Tensor>& places) {
  const ScalarType given = anchors_.scalar_type();
  const bool is_float = given == ScalarType::Float;
  const bool is_half = dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
  STD_TORCH_CHECK(dtype == given || (is_float && is_half), "fusedml: rows of ", given,
                  " are normalised as ", given, ", or from Float as BFloat16 or Half, got ", dtype);
  Normalization result{};
  // without regard to the precision of products, which there are none of
  result.number_type = dtype == ScalarType::Float ? NumberType::kFp32 : number_type_of(dtype).first;
  result.is_float = is_float;
  result.x = numbers(anchors_, "x", given, anchors_.numel());
  if (order) result.order = integers(*order, "order", n());
  if (places) result.places = integers(*places, "places", n());
  result.rows = n();
  result.d = problem_.d;
  return result;
}

PositivePairHead take_positive_pair_head(Name name) {
  static constexpr std::array<std::pair<const char*, PositivePairHead>, 2> kHeads{{
      {"softplus_gap", PositivePairHead::kSoftplusGap},
      {"squared_hinge", PositivePairHead::kSquaredHinge},
  }};
  return find(kHeads, take(name), "head");
}

Tensor Call::new_tensor(std::vector<int64_t> shape, ScalarType dtype) const {
  return torch::stable::new_empty(anchors_, shape, dtype);
}

Tensor Call::new_reals(std::vector<int64_t> shape) const { return new_tensor(shape, real_); }

Tensor Call::new_counts() const { return new_tensor({2, n()}, ScalarType::Long); }

Tensor Call::none() const { return new_tensor({0}, anchors_.scalar_type()); }

void* Call::workspace(size_t bytes) {
  workspace_.reset();  // the next launch of the same stream may reuse the last one's
  workspace_ = new_tensor({int64_t(bytes)}, ScalarType::Byte);
  return workspace_->mutable_data_ptr();
}

}  // namespace fusedml::binding
