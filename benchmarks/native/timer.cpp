// What the operators take by themselves, without Python: the sweep of the forward and both routes
// of the backward, under each of the choices that the plans make by estimate.
//
//   gpu_timer [--seconds S] [--shrink K]   a line per operation, size and choice
//   gpu_timer --profile N D                one forward and one backward, for a profiler
//   gpu_timer --hopper [--seconds S] [--shrink K]
//                                          Hopper's kernels against the times that they are to
//                                          reach
//
// A backward that only wants the logit's gradient makes the panels of weights and not their product
// with the embeddings: "weights" is its time, and "panel" minus "weights" is about the product's.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "device.h"
#include "kernels/api.h"

namespace fusedml::timing {
namespace {

struct Size {
  int64_t n, d;
  NumberType type;
};

constexpr Size kSizes[] = {
    {512, 128, NumberType::kBf16},   {16384, 128, NumberType::kBf16},
    {16384, 512, NumberType::kBf16}, {65536, 128, NumberType::kBf16},
    {65536, 768, NumberType::kBf16}, {16384, 512, NumberType::kFp32},
};

/// Multi-Similarity's statistics of unit rows, 4 a class, sorted by label.
class Step {
 public:
  explicit Step(const Size& size, Engine engine = Engine::kMmaSync)
      : size_(size),
        engine_(engine),
        embeddings_(size.n * size.d * element_bytes()),
        gradient_(size.n * size.d * element_bytes()),
        labels_(size.n),
        counts_(2 * size.n),
        statistics_(3 * size.n),
        statistics_grad_(3 * size.n),
        logit_grad_(4) {
    fill();
    problem_.number_type = size.type;
    problem_.measure = Measure::kDot;
    problem_.anchors = embeddings_.get();
    problem_.anchor_labels = labels_.get();
    problem_.n = size.n;
    problem_.d = size.d;
    problem_.is_self = problem_.exclude_diagonal = problem_.labels_sorted = true;
    const double logit[4] = {-2, 1, 20, -10};
    std::copy(logit, logit + 4, problem_.logit);
  }

  /// Why the engine is not Hopper's; null if it is.
  const char* refusal() const {
    return choose_engine(problem_, {gradient_.get(), nullptr, nullptr}, engine_).reason;
  }

  cudaError_t sweep(SweepOptions options) {
    options.engine = engine_;
    const StatisticsOutputs outputs{statistics_.get(), counts_.get(), nullptr, nullptr};
    return pair_statistics(problem_, {}, outputs,
                           workspace(pair_statistics_workspace(problem_, options)), nullptr,
                           options);
  }
  cudaError_t gradient(const GradientOptions& options) {
    return gradient({gradient_.get(), nullptr, nullptr}, options);
  }
  cudaError_t weights(const GradientOptions& options) {
    return gradient({nullptr, nullptr, logit_grad_.get()}, options);
  }
  /// Of the statistics and of the gradient.
  std::vector<char> bits() const {
    std::vector<char> bits(gradient_.bytes());
    gradient_.copy_to(bits.data());
    std::vector<float> statistics(3 * size_t(size_.n));
    statistics_.copy_to(statistics.data());
    const char* first = reinterpret_cast<const char*>(statistics.data());
    bits.insert(bits.end(), first, first + statistics_.bytes());
    return bits;
  }

 private:
  cudaError_t gradient(const GradientOutputs& outputs, GradientOptions options) {
    options.engine = engine_;
    return pair_gradient(problem_, statistics_.get(), statistics_grad_.get(), outputs,
                         workspace(pair_gradient_workspace(problem_, outputs, options)), nullptr,
                         options);
  }

  /// The largest so far; asked for before the clock starts, as each choice runs once to warm up.
  void* workspace(size_t bytes) {
    if (workspaces_.empty() || workspaces_.back().bytes() < bytes) {
      workspaces_.clear();
      workspaces_.emplace_back(bytes);
    }
    return workspaces_.back().get();
  }

  size_t element_bytes() const { return size_.type == NumberType::kFp32 ? 4 : 2; }

  void fill() {
    std::vector<char> rows(embeddings_.bytes());
    const float scale = std::sqrt(3.0f / float(size_.d));  // unit rows, about
    uint32_t state = 1;
    for (int64_t i = 0; i < size_.n * size_.d; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = scale * (float(state >> 8) * 0x1p-23f - 1.0f);
      const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
      const void* from = element_bytes() == 4 ? static_cast<const void*>(&value) : &rounded;
      std::memcpy(rows.data() + i * element_bytes(), from, element_bytes());
    }
    embeddings_.fill_from(rows.data());
    std::vector<int64_t> labels(size_.n);
    for (int64_t i = 0; i < size_.n; ++i) labels[i] = i / 4;
    labels_.fill_from(labels.data());
    const std::vector<float> grad(3 * size_.n, 1.0f / float(size_.n));
    statistics_grad_.fill_from(grad.data());
  }

  Size size_;
  Engine engine_;
  Problem problem_{};
  DeviceArray<char> embeddings_, gradient_;
  DeviceArray<int64_t> labels_, counts_;
  DeviceArray<float> statistics_, statistics_grad_;
  DeviceArray<double> logit_grad_;
  std::deque<DeviceArray<char>> workspaces_;
};

struct Measurement {
  std::string operation, choice;
  std::function<cudaError_t()> run;
  std::vector<double> milliseconds;
};

std::string mebibytes(int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::vector<Measurement> measurements_of(Step& step, const Size& size) {
  std::vector<Measurement> all;
  const auto add = [&](const char* operation, const std::string& choice, auto run) {
    all.push_back({operation, choice, run, {}});
  };
  add("sweep", "as planned", [&] { return step.sweep({}); });
  for (const int64_t blocks : {132, 264, 396, 528})
    add("sweep", std::to_string(blocks) + " blocks",
        [&step, blocks] { return step.sweep({0, blocks}); });
  for (const int64_t bytes : {2 << 20, 4 << 20, 16 << 20, 32 << 20})
    add("sweep", "slots of " + mebibytes(bytes), [&step, bytes] { return step.sweep({bytes, 0}); });
  if (size.d <= 128)
    add("rows", "as planned", [&] { return step.gradient({GradientRoute::kRows}); });
  add("panel", "as planned", [&] { return step.gradient({GradientRoute::kPanel}); });
  GradientOptions frugal{GradientRoute::kPanel};  // for large n, all panels instead of a half
  frugal.max_workspace_bytes = 64'000'000;
  add("panel", "at most 64 MB", [&step, frugal] { return step.gradient(frugal); });
  for (const int64_t bytes : {8 << 20, 16 << 20, 24 << 20, 32 << 20}) {
    const GradientOptions options{GradientRoute::kPanel, bytes};
    add("panel", mebibytes(bytes), [&step, options] { return step.gradient(options); });
    add("weights", mebibytes(bytes), [&step, options] { return step.weights(options); });
  }
  return all;
}

void print(const Size& size, Measurement& of) {
  std::vector<double>& times = of.milliseconds;
  std::sort(times.begin(), times.end());
  std::printf("%s,%lld,%lld,%s,%s,%.4f,%.4f,%d\n", of.operation.c_str(), (long long)size.n,
              (long long)size.d, size.type == NumberType::kFp32 ? "fp32" : "bf16",
              of.choice.c_str(), times[times.size() / 2], times[0], int(times.size()));
  std::fflush(stdout);
}

/// Interleaved rounds, at least three, for `seconds`.
void measure(const Size& size, double seconds) {
  Step step(size);
  Clock clock;
  std::vector<Measurement> all = measurements_of(step, size);
  for (Measurement& each : all) clock(each.run);  // loads the kernels, takes the memory
  using Now = std::chrono::steady_clock;
  const auto start = Now::now();
  for (int round = 0; round < 101; ++round) {
    for (Measurement& each : all) each.milliseconds.push_back(clock(each.run));
    if (round >= 2 && std::chrono::duration<double>(Now::now() - start).count() > seconds) break;
  }
  for (Measurement& each : all) print(size, each);
}

/// What a stage of csrc/hopper is to reach on an H100, in ms.
struct HopperGoal {
  int stage;
  const char* operation;  ///< "forward", "rows" or "panel" (the routes of the backward), "step"
  Size size;
  double most_ms;                   ///< 0: none, for a comparison
  int64_t max_workspace_bytes = 0;  ///< of the backward
};

constexpr NumberType kBf16 = NumberType::kBf16;
constexpr HopperGoal kHopperGoals[] = {
    {2, "forward", {65536, 128, kBf16}, 1.1},
    {2, "forward", {65536, 512, kBf16}, 3.5},
    {2, "forward", {65536, 768, kBf16}, 5.1},
    {3, "panel", {65536, 768, kBf16}, 22, 64'000'000},  // all panels
    {4, "step", {65536, 768, kBf16}, 22},
    {4, "step", {16384, 512, kBf16}, 1.05},
    {5, "rows", {65536, 128, kBf16}, 4.5},
    {5, "panel", {65536, 128, kBf16}, 0},
};

/// A forward and a backward, as the goal wants them.
cudaError_t run_goal(Step& step, const HopperGoal& goal) {
  const std::string operation = goal.operation;
  GradientOptions options;
  options.max_workspace_bytes = goal.max_workspace_bytes;
  if (operation == "rows") options.route = GradientRoute::kRows;
  if (operation == "panel") options.route = GradientRoute::kPanel;
  if (operation == "forward" || operation == "step") {
    const cudaError_t error = step.sweep({});
    if (error != cudaSuccess || operation == "forward") return error;
  }
  return step.gradient(options);
}

/// Whether statistics and gradient have the same bits twice.
bool repeats_its_bits(Step& step, const HopperGoal& goal) {
  require(run_goal(step, goal), "launch");
  const std::vector<char> first = step.bits();
  require(run_goal(step, goal), "launch");
  return step.bits() == first;
}

void measure_hopper(double seconds, int64_t shrink) {
  std::printf("stage,operation,n,d,most_ms,median_ms,least_ms,rounds,same_bits,verdict\n");
  for (const HopperGoal& goal : kHopperGoals) {
    const Size size{std::max<int64_t>(goal.size.n / shrink, 8), goal.size.d, kBf16};
    Step step(size, Engine::kHopper);
    if (const char* refusal = step.refusal()) {
      std::printf("skipped: %s\n", refusal);
      return;
    }
    Clock clock;
    require(step.sweep({}), "launch");  // the statistics that every backward needs
    const bool repeats = repeats_its_bits(step, goal);
    std::vector<double> times;
    const double share = 1000 * seconds / double(std::size(kHopperGoals));
    double total = 0;
    while (times.size() < 3 || (total < share && times.size() < 101)) {
      times.push_back(clock([&] { return run_goal(step, goal); }));
      total += times.back();
    }
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    const char* verdict = goal.most_ms == 0        ? "compare"
                          : median <= goal.most_ms ? "met"
                                                   : "NOT MET";
    std::printf("%d,%s,%lld,%lld,%g,%.4f,%.4f,%d,%s,%s\n", goal.stage, goal.operation,
                (long long)size.n, (long long)size.d, goal.most_ms, median, times[0],
                int(times.size()), repeats ? "yes" : "NO", verdict);
    std::fflush(stdout);
  }
}

void profile(const Size& size) {
  Step step(size, Engine::kAuto);
  Clock clock;
  std::printf("forward %.3f ms\n", clock([&] { return step.sweep({}); }));
  std::printf("backward %.3f ms\n", clock([&] { return step.gradient({}); }));
}

}  // namespace
}  // namespace fusedml::timing

int main(int argc, char** argv) {
  using namespace fusedml::timing;
  double seconds = 15;
  int64_t shrink = 1;
  bool is_of_hopper = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--profile" && i + 2 < argc) {
      profile({std::atoll(argv[i + 1]), std::atoll(argv[i + 2]), fusedml::NumberType::kBf16});
      return 0;
    }
    is_of_hopper |= option == "--hopper";
    if (option == "--seconds" && i + 1 < argc) seconds = std::atof(argv[++i]);
    if (option == "--shrink" && i + 1 < argc) shrink = std::max<int64_t>(1, std::atoll(argv[++i]));
  }
  if (is_of_hopper) {
    measure_hopper(seconds, shrink);
    return 0;
  }
  std::printf("operation,n,d,type,choice,median_ms,least_ms,rounds\n");
  for (Size size : kSizes) {
    size.n = std::max<int64_t>(size.n / shrink, 8);
    size.d = std::max<int64_t>(size.d / shrink, 8);
    measure(size, seconds / double(std::size(kSizes)));
  }
  return 0;
}
