// The CPU kernels of one instruction set: pointers that the extension chooses among when it is imported.
#pragma once

namespace skysolve_cpu {

constexpr long CHUNK = 1024;  // values that are sorted by regime together; the buffers stay in the first-level cache
constexpr int MOST_OUTPUTS = 5;

// n <= CHUNK arguments, contiguous; an output may be one of the inputs
using Kernel = void (*)(const double* v, const double* x, double* const* out, long n, double scaled);

struct Kernels {
  Kernel log_i, log_k, derivatives_i, derivatives_k, ratio_to_lower_order, ratio, ratio_inverse;
};

}  // namespace skysolve_cpu
