// Inner loops of NumPy universal functions over the kernels: strides, float32, threads, and the choice of the instruction set.
// gpu/_log_bessel.py makes the functions of them. They need neither Python's nor NumPy's headers: an inner loop takes
// pointers and intptr_t.
#include <atomic>
#include <cfenv>
#include <cstdint>
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
const std::vector<InstructionSet> sets = instruction_sets();
std::atomic<int> chosen{0}, threads{1};

constexpr long BLOCK = 16 * CHUNK;  // what a thread takes at a time: far longer than its start takes

struct Function {
  Kernel Kernels::*kernel;
  double scaled;
  int outputs;
};

// One run of arguments with strides in bytes, of type T
template <class T>
void run(const Function& function, char** args, const intptr_t* steps, long from, long to) {
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
void loop(char** args, const intptr_t* dimensions, const intptr_t* steps, void* data) {
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

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The inner loop for float64 (1) or float32 (0), and what it is given for function `number` of those above.
EXPORT void* log_bessel_loop(int is_double) {
  return is_double ? reinterpret_cast<void*>(loop<double>) : reinterpret_cast<void*>(loop<float>);
}
EXPORT void* log_bessel_data(int number) { return &functions[number]; }
EXPORT int log_bessel_outputs(int number) { return functions[number].outputs; }

EXPORT void log_bessel_set_threads(int count) { threads = count; }
EXPORT int log_bessel_get_threads() { return threads; }

// Instruction sets in order of width; a null name ends them.
EXPORT const char* log_bessel_instruction_set(int number) {
  return number < static_cast<int>(sets.size()) ? sets[number].name : nullptr;
}
EXPORT int log_bessel_is_available(int number) { return sets[number].available; }
EXPORT void log_bessel_choose(int number) { chosen = number; }
