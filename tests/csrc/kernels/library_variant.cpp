// What the test programs, compiled once for all libraries, ask of the one they are linked to.
namespace fusedml::testing {

extern const bool kIsSanitized = FUSEDML_IS_SANITIZED;

}  // namespace fusedml::testing
