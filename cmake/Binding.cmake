# fusedml_add_binding(name kernels sources...): a module that registers the operators of `kernels`
# with PyTorch.
#
# The stable ABI needs one folder of headers and one library of FUSEDML_TORCH_ROOT.
# find_package(Torch) is left out on purpose: it asks for torch's own CUDA toolkit and libraries.
set(FUSEDML_TORCH_TARGET 0x020a000000000000 CACHE STRING "Oldest LibTorch to load under (2.10)")

function(fusedml_add_binding name kernels)
  list(TRANSFORM ARGN PREPEND "${PROJECT_SOURCE_DIR}/csrc/torch/")
  set(sources arguments.cpp binding.cpp gradients.cpp runtime.cpp)
  list(TRANSFORM sources PREPEND "${PROJECT_SOURCE_DIR}/csrc/torch/")
  add_library(${name} MODULE ${sources} ${ARGN})
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".abi3.so" SKIP_BUILD_RPATH ON
                                           CXX_VISIBILITY_PRESET hidden
                                           VISIBILITY_INLINES_HIDDEN ON)
  target_compile_definitions(${name} PRIVATE TORCH_TARGET_VERSION=${FUSEDML_TORCH_TARGET})
  # no path of the build machine is left in the error messages
  target_compile_options(${name} PRIVATE -Wall -Wextra
                                         "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=")
  target_include_directories(${name} SYSTEM PRIVATE "${FUSEDML_TORCH_ROOT}/include")
  target_link_libraries(${name} PRIVATE ${kernels} "${FUSEDML_TORCH_ROOT}/lib/libtorch_cpu.so"
                                        ${CMAKE_DL_LIBS})
  # the symbols of the static CUDA runtime must not meet those of torch's shared one
  target_link_options(${name} PRIVATE -Wl,--exclude-libs,ALL)
endfunction()
