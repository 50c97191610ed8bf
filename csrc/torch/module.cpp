// The Python module fusedml._C: importing it registers the kernels (binding.cpp).  It exports only
// what is to be said about the build.
#include <Python.h>

#include "kernels/api.h"
#include "torch/runtime.h"

namespace {

PyObject* float32_matmul_precision(PyObject*, PyObject*) {
  using namespace fusedml::binding;
  return PyUnicode_FromString(name_of(float32_precision()));
}

PyObject* cuda_version(PyObject*, PyObject*) { return PyLong_FromLong(CUDART_VERSION); }

PyObject* hopper_refusal(PyObject*, PyObject* device) {
  const long index = PyLong_AsLong(device);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  const char* reason = fusedml::hopper_device_refusal(int(index));
  if (reason == nullptr) Py_RETURN_NONE;
  return PyUnicode_FromString(reason);
}

PyMethodDef methods[] = {
    {"float32_matmul_precision", float32_matmul_precision, METH_NOARGS,
     "The precision of float32 products that the kernels see: 'highest', 'high' or 'medium'."},
    {"cuda_version", cuda_version, METH_NOARGS,
     "Version of the CUDA runtime in the kernels, 1000 major + 10 minor."},
    {"hopper_refusal", hopper_refusal, METH_O,
     "Why the GPU of this number has no kernels of Hopper's own instructions, or None."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module{PyModuleDef_HEAD_INIT,
                   "_C",
                   "The compiled CUDA kernels.",
                   -1,
                   methods,
                   nullptr,
                   nullptr,
                   nullptr,
                   nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  return PyModule_Create(&module);
}
