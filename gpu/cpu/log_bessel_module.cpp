// NumPy universal functions over the kernels: strides, float32, threads, and the choice of the instruction set.
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>
#include <numpy/ufuncobject.h>

#include <atomic>
#include <cfenv>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels.h"

using skysolve_cpu::CHUNK;
using skysolve_cpu::Kernel;
using skysolve_cpu::Kernels;
using skysolve_cpu::MOST_OUTPUTS;

namespace skysolve_portable { extern const Kernels kernels; }
#if defined(SKYSOLVE_X86)
namespace skysolve_avx2 { extern const Kernels kernels; }
namespace skysolve_avx512 { extern const Kernels kernels; }
#endif

namespace {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  bool available;
};
std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets = {{"portable", &skysolve_portable::kernels, true}};
#if defined(SKYSOLVE_X86)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  sets.push_back({"avx2", &skysolve_avx2::kernels, avx2});
  sets.push_back({"avx512", &skysolve_avx512::kernels, avx512});
#endif
  return sets;
}
std::vector<InstructionSet> sets;
std::atomic<int> chosen{0}, threads{1};

constexpr long BLOCK = 16 * CHUNK;  // what a thread takes at a time: far longer than its start takes

struct Function {
  Kernel Kernels::*kernel;
  double scaled;
  int outputs;
};

// One run of arguments with strides in bytes, of type T
template <class T>
void run(const Function& function, char** args, const npy_intp* steps, long from, long to) {
  alignas(64) double v[CHUNK], x[CHUNK], results[MOST_OUTPUTS][CHUNK];
  Kernel kernel = sets[chosen].kernels->*function.kernel;
  auto gather = [&](int k, long at, long n, double* buffer) -> const double* {
    const char* from_here = args[k] + at * steps[k];
    if (sizeof(T) == sizeof(double) && steps[k] == sizeof(double)) return reinterpret_cast<const double*>(from_here);
    for (long i = 0; i < n; i++) buffer[i] = *reinterpret_cast<const T*>(from_here + i * steps[k]);
    return buffer;
  };
  for (long at = from; at < to; at += CHUNK) {
    long n = to - at < CHUNK ? to - at : CHUNK;
    double* out[MOST_OUTPUTS];
    bool direct[MOST_OUTPUTS];
    for (int o = 0; o < function.outputs; o++) {
      direct[o] = sizeof(T) == sizeof(double) && steps[2 + o] == sizeof(double);
      out[o] = direct[o] ? reinterpret_cast<double*>(args[2 + o] + at * steps[2 + o]) : results[o];
    }
    kernel(gather(0, at, n, v), gather(1, at, n, x), out, n, function.scaled);
    for (int o = 0; o < function.outputs; o++) {
      if (direct[o]) continue;
      char* to_here = args[2 + o] + at * steps[2 + o];
      for (long i = 0; i < n; i++) *reinterpret_cast<T*>(to_here + i * steps[2 + o]) = static_cast<T>(results[o][i]);
    }
  }
}

template <class T>
void loop(char** args, const npy_intp* dimensions, const npy_intp* steps, void* data) {
  const Function& function = *static_cast<const Function*>(data);
  long n = dimensions[0], blocks = (n + BLOCK - 1) / BLOCK;
  int workers = static_cast<int>(blocks < threads ? blocks : threads.load());
  if (workers < 2) {
    run<T>(function, args, steps, 0, n);
  } else {
    std::atomic<long> next{0};
    auto work = [&] {
      for (long b = next++; b < blocks; b = next++) run<T>(function, args, steps, b * BLOCK, (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n);
    };
    std::vector<std::thread> pool;
    try {
      while (static_cast<int>(pool.size()) < workers - 1) pool.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads to be had: those that run share the work
    }
    work();
    for (std::thread& thread : pool) thread.join();
  }
  std::feclearexcept(FE_ALL_EXCEPT);  // nan and inf are answers here, told in the docstrings; NumPy would warn
}

Function functions[] = {
    {&Kernels::log_i, 0.0, 1},         {&Kernels::log_i, 1.0, 1},         {&Kernels::log_k, 0.0, 1},
    {&Kernels::log_k, 1.0, 1},         {&Kernels::derivatives_i, 0.0, 5}, {&Kernels::derivatives_i, 1.0, 5},
    {&Kernels::derivatives_k, 0.0, 5}, {&Kernels::derivatives_k, 1.0, 5}, {&Kernels::ratio_to_lower_order, 0.0, 1},
    {&Kernels::ratio, 0.0, 2},         {&Kernels::ratio_inverse, 0.0, 1},
};
struct Named {
  const char* name;
  const char* doc;
};
const Named named[] = {
    {"log_iv", "log I_v(x)"},
    {"log_ive", "log I_v(x) - x"},
    {"log_kv", "log K_v(x)"},
    {"log_kve", "log K_v(x) + x"},
    {"log_iv_derivatives", "d/dv, d/dx, d2/dv2, d2/dvdx, d2/dx2 of log I_v(x)"},
    {"log_ive_derivatives", "the same of log I_v(x) - x"},
    {"log_kv_derivatives", "the same of log K_v(x)"},
    {"log_kve_derivatives", "the same of log K_v(x) + x"},
    {"iv_ratio", "I_v(x) / I_{v-1}(x)"},
    {"ratio_and_complement", "A = I_{v+1}(x) / I_v(x) and 1 - A"},
    {"ratio_inverse", "the x at which I_{v+1}(x) / I_v(x) is the second argument"},
};
constexpr int COUNT = sizeof(functions) / sizeof(Function);
PyUFuncGenericFunction loops[2] = {reinterpret_cast<PyUFuncGenericFunction>(loop<float>),
                                   reinterpret_cast<PyUFuncGenericFunction>(loop<double>)};
void* loop_data[COUNT][2];
char signatures[MOST_OUTPUTS + 1][2 * (2 + MOST_OUTPUTS)];

PyObject* set_threads(PyObject*, PyObject* argument) {
  long n = PyLong_AsLong(argument);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  if (n < 1 || n > 4096) return PyErr_Format(PyExc_ValueError, "threads must lie in 1 .. 4096; got %ld.", n);
  threads = static_cast<int>(n);
  Py_RETURN_NONE;
}
PyObject* get_threads(PyObject*, PyObject*) { return PyLong_FromLong(threads); }
PyObject* set_instruction_set(PyObject*, PyObject* argument) {
  const char* name = PyUnicode_AsUTF8(argument);
  if (!name) return nullptr;
  for (size_t i = 0; i < sets.size(); i++) {
    if (std::strcmp(sets[i].name, name) == 0 && sets[i].available) {
      chosen = static_cast<int>(i);
      Py_RETURN_NONE;
    }
  }
  return PyErr_Format(PyExc_ValueError, "instruction set \"%s\" is not available here: see instruction_sets().", name);
}
PyObject* get_instruction_sets(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  for (const InstructionSet& set : sets) {
    if (!set.available) continue;
    PyObject* name = PyUnicode_FromString(set.name);
    if (!names || !name || PyList_Append(names, name) < 0) return nullptr;
    Py_DECREF(name);
  }
  return names;
}
PyObject* get_instruction_set(PyObject*, PyObject*) { return PyUnicode_FromString(sets[chosen].name); }

PyMethodDef methods[] = {
    {"set_threads", set_threads, METH_O, "Most threads that one call on a large array may use."},
    {"get_threads", get_threads, METH_NOARGS, "Most threads that one call on a large array may use."},
    {"set_instruction_set", set_instruction_set, METH_O, "Choose the kernels; for tests and benchmarks."},
    {"instruction_sets", get_instruction_sets, METH_NOARGS, "Names of the kernels that this processor can run."},
    {"instruction_set", get_instruction_set, METH_NOARGS, "Name of the kernels in use: the widest that the processor has."},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_log_bessel", "NumPy universal functions of gpu.log_bessel.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__log_bessel() {
  import_array();
  import_umath();
  sets = instruction_sets();
  for (size_t i = 0; i < sets.size(); i++)
    if (sets[i].available) chosen = static_cast<int>(i);
  PyObject* module = PyModule_Create(&definition);
  if (!module) return nullptr;
  for (int outputs = 1; outputs <= MOST_OUTPUTS; outputs++) {
    for (int i = 0; i < 2 + outputs; i++) {
      signatures[outputs][i] = NPY_FLOAT;
      signatures[outputs][2 + outputs + i] = NPY_DOUBLE;
    }
  }
  for (int i = 0; i < COUNT; i++) {
    loop_data[i][0] = loop_data[i][1] = &functions[i];
    int outputs = functions[i].outputs;
    PyObject* ufunc = PyUFunc_FromFuncAndData(loops, loop_data[i], signatures[outputs], 2, 2, outputs, PyUFunc_None, named[i].name,
                                              named[i].doc, 0);
    if (!ufunc || PyModule_AddObject(module, named[i].name, ufunc) < 0) {
      Py_XDECREF(ufunc);
      Py_DECREF(module);
      return nullptr;
    }
  }
  return module;
}
