// A pack of doubles in one vector register, for the kernels of gpu/cuda on the CPU (vector extensions of g++ and clang++).
// Include it before them: a pack has no namespace in which their templates could look for these functions later.
#pragma once
#include "../cuda/portable.cuh"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace SKYSOLVE_NAMESPACE {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int LANES = 8;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 4;
#else
constexpr int LANES = 2;
#endif
typedef double Pack __attribute__((vector_size(8 * LANES)));
typedef int64 IntegerPack __attribute__((vector_size(8 * LANES)));
typedef unsigned long long UnsignedPack __attribute__((vector_size(8 * LANES)));
template <> struct Integer<Pack> { using type = IntegerPack; };

SKYSOLVE_INLINE IntegerPack bits_of(Pack a) { return (IntegerPack)a; }
SKYSOLVE_INLINE Pack real_of_bits(IntegerPack a) { return (Pack)a; }
SKYSOLVE_INLINE IntegerPack logical_shift_right(IntegerPack a, int n) { return (IntegerPack)((UnsignedPack)a >> n); }
SKYSOLVE_INLINE Pack value_of(Pack a) { return a; }
template <class Mask> SKYSOLVE_INLINE Pack select(Mask choose, Pack a, Pack b) { return choose ? a : b; }
SKYSOLVE_INLINE Pack load(const double* a) { Pack p; __builtin_memcpy(&p, a, sizeof p); return p; }
SKYSOLVE_INLINE void store(double* a, Pack p) { __builtin_memcpy(a, &p, sizeof p); }

#if defined(__AVX512F__) && defined(__AVX512DQ__)
// 1/a and 1/sqrt(a) to about an ulp, from 14 bits by one cubic and one linear step or one quartic: a third of a division's time.
SKYSOLVE_INLINE Pack reciprocal(Pack a) {
  __m512d one = _mm512_set1_pd(1.0), b = (__m512d)a, y = _mm512_rcp14_pd(b), e = _mm512_fnmadd_pd(b, y, one);
  y = _mm512_fmadd_pd(y, _mm512_fmadd_pd(e, e, e), y);
  return (Pack)_mm512_fmadd_pd(y, _mm512_fnmadd_pd(b, y, one), y);
}
SKYSOLVE_INLINE Pack reciprocal_root(Pack a) {
  __m512d b = (__m512d)a, y = _mm512_rsqrt14_pd(b), e = _mm512_fnmadd_pd(_mm512_mul_pd(b, y), y, _mm512_set1_pd(1.0));
  __m512d series = _mm512_fmadd_pd(_mm512_set1_pd(0.3125), e, _mm512_set1_pd(0.375));
  series = _mm512_fmadd_pd(series, e, _mm512_set1_pd(0.5));
  return (Pack)_mm512_fmadd_pd(_mm512_mul_pd(y, e), series, y);
}
SKYSOLVE_INLINE Pack square_root(Pack a) { return (Pack)_mm512_sqrt_pd((__m512d)a); }
SKYSOLVE_INLINE Pack nearest(Pack a) { return (Pack)_mm512_roundscale_pd((__m512d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SKYSOLVE_INLINE Pack madd(Pack a, Pack b, Pack c) { return (Pack)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__AVX2__) && defined(__FMA__)
SKYSOLVE_INLINE Pack square_root(Pack a) { return (Pack)_mm256_sqrt_pd((__m256d)a); }
SKYSOLVE_INLINE Pack nearest(Pack a) { return (Pack)_mm256_round_pd((__m256d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SKYSOLVE_INLINE Pack madd(Pack a, Pack b, Pack c) { return (Pack)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
SKYSOLVE_INLINE Pack square_root(Pack a) { for (int i = 0; i < LANES; i++) a[i] = __builtin_sqrt(a[i]); return a; }
// Right for |a| < 2^51, which orders and exponents are.
SKYSOLVE_INLINE Pack nearest(Pack a) { Pack s = a + 6755399441055744.0; return s - 6755399441055744.0; }
#if SKYSOLVE_FUSED
SKYSOLVE_INLINE Pack madd(Pack a, Pack b, Pack c) { for (int i = 0; i < LANES; i++) a[i] = __builtin_fma(a[i], b[i], c[i]); return a; }
#else
SKYSOLVE_INLINE Pack madd(Pack a, Pack b, Pack c) { return a * b + c; }
#endif
#endif
#if !(defined(__AVX512F__) && defined(__AVX512DQ__))
SKYSOLVE_INLINE Pack reciprocal(Pack a) { return 1.0 / a; }
SKYSOLVE_INLINE Pack reciprocal_root(Pack a) { return 1.0 / square_root(a); }
#endif
SKYSOLVE_INLINE double largest(Pack a) {
  double most = a[0];
  for (int i = 1; i < LANES; i++) most = a[i] > most ? a[i] : most;
  return most;
}

}  // namespace SKYSOLVE_NAMESPACE
