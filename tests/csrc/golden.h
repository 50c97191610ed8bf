#pragma once
// What primitives gave on hardware, as test data for the emulator.  A program run with `--record
// FILE` writes the inputs and outputs of each case; run with `--golden FILE` it takes its inputs
// from there and compares its outputs.  A line is: case, role, type's bytes, count, hexadecimal.
#include <cmath>
#include <fstream>
#include <sstream>

#include "check.h"

namespace fusedml::testing {

class Golden {
 public:
  /// Takes `--record FILE` or `--golden FILE` out of the arguments.
  void open(int& argc, char** argv) {
    if (argc < 3) return;
    const std::string option = argv[argc - 2];
    if (option != "--record" && option != "--golden") return;
    if (option == "--record") out_.open(argv[argc - 1]);
    if (option == "--golden") in_.open(argv[argc - 1]);
    if (!out_.is_open() && !in_.is_open()) {
      std::printf("%s cannot be opened\n", argv[argc - 1]);
      std::exit(2);
    }
    argc -= 2;
  }

  bool is_open() const { return out_.is_open() || in_.is_open(); }

  /// Records an input, or replaces it by the recorded one.
  template <class T>
  void input(const char* name, Buffer<T>& values) {
    if (out_.is_open()) write(name, "in", values);
    if (!in_.is_open()) return;
    const std::vector<T> recorded = read<T>(name, "in", values.size());
    for (size_t i = 0; i < recorded.size(); ++i) values[i] = recorded[i];
  }

  /// Records an output, or checks each value against the recorded one: within `tolerance` of it,
  /// relative to its size or to `least` if that is larger.
  void output(const char* name, Buffer<float>& values, double tolerance, double least) {
    if (out_.is_open()) write(name, "out", values);
    if (!in_.is_open()) return;
    const std::vector<float> recorded = read<float>(name, "out", values.size());
    for (size_t i = 0; i < recorded.size(); ++i) {
      const double got = values[i], want = recorded[i];
      const double most = tolerance * std::fmax(least, std::fabs(want));
      CHECK(got == want || (std::isnan(got) && std::isnan(want)) || std::fabs(got - want) <= most);
    }
  }

 private:
  template <class T>
  void write(const char* name, const char* role, Buffer<T>& values) {
    out_ << name << ' ' << role << ' ' << sizeof(T) << ' ' << values.size() << ' ';
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.begin());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) {
      constexpr char kDigits[] = "0123456789abcdef";
      out_ << kDigits[bytes[i] / 16] << kDigits[bytes[i] % 16];
    }
    out_ << '\n';
    CHECK(out_.good());
  }

  /// The next line's values; none, and a failed check, if it is not the expected one.
  template <class T>
  std::vector<T> read(const char* name, const char* role, size_t count) {
    std::string line, found_name, found_role, digits;
    size_t size = 0, found_count = 0;
    std::getline(in_, line);
    std::istringstream(line) >> found_name >> found_role >> size >> found_count >> digits;
    const bool is_expected = found_name == name && found_role == role && size == sizeof(T) &&
                             found_count == count && digits.size() == 2 * count * sizeof(T);
    CHECK(is_expected);
    if (!is_expected) return {};
    std::vector<T> values(count);
    auto* bytes = reinterpret_cast<unsigned char*>(values.data());
    for (size_t i = 0; i < count * sizeof(T); ++i) {
      bytes[i] = static_cast<unsigned char>(std::stoi(digits.substr(2 * i, 2), nullptr, 16));
    }
    return values;
  }

  std::ofstream out_;
  std::ifstream in_;
};

inline Golden golden;

}  // namespace fusedml::testing
