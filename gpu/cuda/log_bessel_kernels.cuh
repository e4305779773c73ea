// The GPU's kernels. gpu/backend.py writes one SKYSOLVE_BY_REGIME or SKYSOLVE_EACH line for each that is asked for, and CuPy
// compiles it with NVRTC.
//
// A block sorts a tile of arguments by regime in shared memory before it computes, and each regime starts at a whole warp,
// so that no warp runs two regimes. Compile with --fmad=false, see double_double.cuh.
#pragma once
#include "bessel_ratio.cuh"
#include "log_bessel.cuh"
#include "log_bessel_derivatives.cuh"

namespace SKYSOLVE_NAMESPACE {

constexpr int THREADS = 128, TILE = 1024, WARP = 32, MOST_REGIMES = K_REGIMES, ROOM = TILE + MOST_REGIMES * WARP;
static_assert(I_REGIMES <= MOST_REGIMES && MOST_REGIMES <= THREADS && ROOM <= 32767, "counters, one thread each, and places in a short");

struct LogI {
  SKYSOLVE_INLINE static int regime(double v, double x) { return (int)regime_i<true>(v, x); }
  SKYSOLVE_INLINE static void compute(int regime, double v, double x, double scaled, double* out) {
    switch (regime) {
      case I_ZERO: out[0] = log_i_zero(v, x, scaled); break;
      case I_SMALL: out[0] = log_i_small(v, x, scaled); break;
      case I_1: out[0] = log_i_near<23>(v, x, scaled); break;
      case I_8: out[0] = log_i_8(v, x, scaled); break;
      case I_12: out[0] = log_i_12(v, x, scaled); break;
      case I_24: out[0] = log_i_far<16>(v, x, scaled); break;
      case I_64: out[0] = log_i_far<9>(v, x, scaled); break;
      case I_220: out[0] = log_i_far<6>(v, x, scaled); break;
      case I_1500: out[0] = log_i_far<4>(v, x, scaled); break;
      default: out[0] = log_i_remote(v, x, scaled);
    }
  }
};
struct LogK {
  SKYSOLVE_INLINE static int regime(double v, double x) { return (int)regime_k<true>(v, x); }
  SKYSOLVE_INLINE static void compute(int regime, double v, double x, double scaled, double* out) {
    switch (regime) {
      case K_ZERO: out[0] = log_k_zero(v, x, scaled); break;
      case K_HALF: out[0] = log_k_half(v, x, scaled); break;
      case K_LOW: out[0] = log_k_low(v, x, scaled); break;
      case K_SMALL: out[0] = log_k_small(v, x, scaled); break;
      case K_1: out[0] = log_k_1(v, x, scaled); break;
      case K_5_2: out[0] = log_k_5_2(v, x, scaled); break;
      case K_8: out[0] = log_k_8(v, x, scaled); break;
      case K_12: out[0] = log_k_12(v, x, scaled); break;
      case K_24: out[0] = log_k_far<16>(v, x, scaled); break;
      case K_64: out[0] = log_k_far<9>(v, x, scaled); break;
      case K_220: out[0] = log_k_far<6>(v, x, scaled); break;
      case K_1500: out[0] = log_k_far<4>(v, x, scaled); break;
      default: out[0] = log_k_remote(v, x, scaled);
    }
  }
};
SKYSOLVE_INLINE void put(const Jet<double>& d, double* out) {
  out[0] = d.v, out[1] = d.x, out[2] = d.vv, out[3] = d.vx, out[4] = d.xx;
}
struct DerivativesI {
  SKYSOLVE_INLINE static int regime(double v, double x) {
    int regime = (int)regime_i(v, x);
    return regime > I_24 ? I_24 : regime;
  }
  SKYSOLVE_INLINE static void compute(int regime, double v, double x, double scaled, double* out) {
    switch (regime) {
      case I_SMALL: put(derivatives_i_near<11>(v, x, scaled), out); break;
      case I_1: put(derivatives_i_near<23>(v, x, scaled), out); break;
      case I_8: put(derivatives_i_8(v, x, scaled), out); break;
      case I_12: put(derivatives_i_12(v, x, scaled), out); break;
      case I_24: put(derivatives_i_far(v, x, scaled), out); break;
      default: put(derivatives_i_remote(v, x, scaled), out);
    }
  }
};
struct DerivativesK {
  SKYSOLVE_INLINE static int regime(double v, double x) {
    int regime = (int)regime_k(v, x);
    return regime > K_24 ? K_24 : regime;
  }
  SKYSOLVE_INLINE static void compute(int regime, double v, double x, double scaled, double* out) {
    switch (regime) {
      case K_SMALL: put(derivatives_k_small(v, x, scaled), out); break;
      case K_1: put(derivatives_k_1(v, x, scaled), out); break;
      case K_5_2: put(derivatives_k_5_2(v, x, scaled), out); break;
      case K_8: put(derivatives_k_8(v, x, scaled), out); break;
      case K_12: put(derivatives_k_12(v, x, scaled), out); break;
      case K_24: put(derivatives_k_far(v, x, scaled), out); break;
      default: put(derivatives_k_remote(v, x, scaled), out);
    }
  }
};

// Where each regime starts in the order of work, at a whole warp; returns where the last one's warps end.
SKYSOLVE_INLINE int lay_out(const int* count, int* next) {
  int at = 0;
  for (int k = 0; k < MOST_REGIMES; k++) {
    next[k] = at;
    at += (count[k] + WARP - 1) / WARP * WARP;
  }
  return at;
}

// One block, one tile. out holds OUTPUTS arrays of n values, one after the other.
template <class Family, int OUTPUTS, class T>
SKYSOLVE_INLINE void by_regime(const T* v, const T* x, T* out, int64 n, double scaled) {
  __shared__ int count[MOST_REGIMES], next[MOST_REGIMES], end_of_work;
  __shared__ short order[ROOM];
  __shared__ unsigned char code[TILE];
  const int64 start = (int64)blockIdx.x * TILE;
  const int size = n - start < TILE ? (int)(n - start) : TILE, me = threadIdx.x;
  if (me < MOST_REGIMES) count[me] = 0;
  for (int i = me; i < ROOM; i += THREADS) order[i] = -1;
  __syncthreads();
  for (int i = me; i < size; i += THREADS) {
    code[i] = (unsigned char)Family::regime((double)v[start + i], (double)x[start + i]);
    atomicAdd(&count[code[i]], 1);
  }
  __syncthreads();
  if (me == 0) end_of_work = lay_out(count, next);
  __syncthreads();
  for (int i = me; i < size; i += THREADS) order[atomicAdd(&next[code[i]], 1)] = (short)i;
  __syncthreads();
  for (int i = me; i < end_of_work; i += THREADS) {
    if (order[i] < 0) continue;
    const int64 at = start + order[i];
    double results[OUTPUTS];
    Family::compute(code[order[i]], (double)v[at], (double)x[at], scaled, results);
    for (int o = 0; o < OUTPUTS; o++) out[o * n + at] = (T)results[o];
  }
}

}  // namespace SKYSOLVE_NAMESPACE

#define SKYSOLVE_BY_REGIME(name, Family, OUTPUTS, T)                                                                   \
  extern "C" __global__ void __launch_bounds__(128) name(const T* v, const T* x, T* out, long long n, double scaled) { \
    SKYSOLVE_NAMESPACE::by_regime<SKYSOLVE_NAMESPACE::Family, OUTPUTS>(v, x, out, n, scaled);                          \
  }

// One value a thread, eight times
#define SKYSOLVE_EACH(name, OUTPUTS, T, function)                                                                            \
  extern "C" __global__ void __launch_bounds__(128) name(const T* v, const T* x, T* out, long long n, double) {             \
    for (long long i = (long long)blockIdx.x * 1024 + threadIdx.x; i < n && i < ((long long)blockIdx.x + 1) * 1024; i += 128) { \
      double results[OUTPUTS];                                                                                               \
      SKYSOLVE_NAMESPACE::function((double)v[i], (double)x[i], results);                                                     \
      for (int o = 0; o < OUTPUTS; o++) out[o * n + i] = (T)results[o];                                                      \
    }                                                                                                                        \
  }
