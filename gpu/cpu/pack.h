// A pack of doubles for the kernels of gpu/cuda on the CPU (vector extensions of g++ and clang++): one vector register, or two
// with AVX2, whose sixteen registers and short queue leave half the units idle in one chain of dependent operations.
// Include it before them: a pack has no namespace in which their templates could look for these functions later.
#pragma once
#include "../cuda/portable.cuh"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace SKYSOLVE_NAMESPACE {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int WIDTH = 8;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int WIDTH = 4;
#else
constexpr int WIDTH = 2;
#endif
typedef double Register __attribute__((vector_size(8 * WIDTH)));
typedef int64 IntegerRegister __attribute__((vector_size(8 * WIDTH)));
typedef unsigned long long UnsignedRegister __attribute__((vector_size(8 * WIDTH)));
template <> struct Integer<Register> { using type = IntegerRegister; };

// ---- one register -----------------------------------------------------------------------------------------------------
SKYSOLVE_INLINE IntegerRegister bits_of(Register a) { return (IntegerRegister)a; }
SKYSOLVE_INLINE Register real_of_bits(IntegerRegister a) { return (Register)a; }
SKYSOLVE_INLINE IntegerRegister logical_shift_right(IntegerRegister a, int n) { return (IntegerRegister)((UnsignedRegister)a >> n); }
SKYSOLVE_INLINE Register value_of(Register a) { return a; }
template <class Mask> SKYSOLVE_INLINE Register select(Mask choose, Register a, Register b) { return choose ? a : b; }

SKYSOLVE_INLINE Register load_register(const double* a) { Register r; __builtin_memcpy(&r, a, sizeof r); return r; }
SKYSOLVE_INLINE void store(double* a, Register r) { __builtin_memcpy(a, &r, sizeof r); }

#if defined(__AVX512F__) && defined(__AVX512DQ__)
// 1/a and 1/sqrt(a) to about an ulp, from 14 bits by one cubic and one linear step or one quartic: a third of a division's time.
SKYSOLVE_INLINE Register reciprocal(Register a) {
  __m512d one = _mm512_set1_pd(1.0), b = (__m512d)a, y = _mm512_rcp14_pd(b), e = _mm512_fnmadd_pd(b, y, one);
  y = _mm512_fmadd_pd(y, _mm512_fmadd_pd(e, e, e), y);
  return (Register)_mm512_fmadd_pd(y, _mm512_fnmadd_pd(b, y, one), y);
}
SKYSOLVE_INLINE Register reciprocal_root(Register a) {
  __m512d b = (__m512d)a, y = _mm512_rsqrt14_pd(b), e = _mm512_fnmadd_pd(_mm512_mul_pd(b, y), y, _mm512_set1_pd(1.0));
  __m512d series = _mm512_fmadd_pd(_mm512_set1_pd(0.3125), e, _mm512_set1_pd(0.375));
  series = _mm512_fmadd_pd(series, e, _mm512_set1_pd(0.5));
  return (Register)_mm512_fmadd_pd(_mm512_mul_pd(y, e), series, y);
}
SKYSOLVE_INLINE Register square_root(Register a) { return (Register)_mm512_sqrt_pd((__m512d)a); }
SKYSOLVE_INLINE Register nearest(Register a) {
  return (Register)_mm512_roundscale_pd((__m512d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SKYSOLVE_INLINE Register madd(Register a, Register b, Register c) {
  return (Register)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__AVX2__) && defined(__FMA__)
SKYSOLVE_INLINE Register square_root(Register a) { return (Register)_mm256_sqrt_pd((__m256d)a); }
SKYSOLVE_INLINE Register nearest(Register a) {
  return (Register)_mm256_round_pd((__m256d)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SKYSOLVE_INLINE Register madd(Register a, Register b, Register c) {
  return (Register)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#else
SKYSOLVE_INLINE Register square_root(Register a) { for (int i = 0; i < WIDTH; i++) a[i] = __builtin_sqrt(a[i]); return a; }
// Right for |a| < 2^51, which orders and exponents are.
SKYSOLVE_INLINE Register nearest(Register a) { Register s = a + 6755399441055744.0; return s - 6755399441055744.0; }
#if SKYSOLVE_FUSED
SKYSOLVE_INLINE Register madd(Register a, Register b, Register c) {
  for (int i = 0; i < WIDTH; i++) a[i] = __builtin_fma(a[i], b[i], c[i]);
  return a;
}
#else
SKYSOLVE_INLINE Register madd(Register a, Register b, Register c) { return a * b + c; }
#endif
#endif
#if !(defined(__AVX512F__) && defined(__AVX512DQ__))
SKYSOLVE_INLINE Register reciprocal(Register a) { return 1.0 / a; }
SKYSOLVE_INLINE Register reciprocal_root(Register a) { return 1.0 / square_root(a); }
#endif

// ---- two registers that take turns ------------------------------------------------------------------------------------
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
constexpr int LANES = 2 * WIDTH;
struct IntegerPack { IntegerRegister a, b; };  // masks as well: all bits or none
struct Pack { Register a, b; };
template <> struct Integer<Pack> { using type = IntegerPack; };

#define SKYSOLVE_BOTH(Result, Operand, number, o)                                                          \
  SKYSOLVE_INLINE Result operator o(Operand x, Operand y) { return {x.a o y.a, x.b o y.b}; }               \
  SKYSOLVE_INLINE Result operator o(Operand x, number y) { return {x.a o y, x.b o y}; }                    \
  SKYSOLVE_INLINE Result operator o(number x, Operand y) { return {x o y.a, x o y.b}; }
SKYSOLVE_BOTH(Pack, Pack, double, +)
SKYSOLVE_BOTH(Pack, Pack, double, -)
SKYSOLVE_BOTH(Pack, Pack, double, *)
SKYSOLVE_BOTH(Pack, Pack, double, /)
SKYSOLVE_BOTH(IntegerPack, Pack, double, <)
SKYSOLVE_BOTH(IntegerPack, Pack, double, <=)
SKYSOLVE_BOTH(IntegerPack, Pack, double, >)
SKYSOLVE_BOTH(IntegerPack, Pack, double, >=)
SKYSOLVE_BOTH(IntegerPack, Pack, double, ==)
SKYSOLVE_BOTH(IntegerPack, IntegerPack, int64, +)
SKYSOLVE_BOTH(IntegerPack, IntegerPack, int64, -)
SKYSOLVE_BOTH(IntegerPack, IntegerPack, int64, &)
SKYSOLVE_BOTH(IntegerPack, IntegerPack, int64, |)
#undef SKYSOLVE_BOTH
SKYSOLVE_INLINE IntegerPack operator<<(IntegerPack x, int n) { return {x.a << n, x.b << n}; }
SKYSOLVE_INLINE Pack operator-(Pack x) { return {-x.a, -x.b}; }
SKYSOLVE_INLINE Pack& operator+=(Pack& x, Pack y) { return x = x + y; }
SKYSOLVE_INLINE IntegerPack bits_of(Pack x) { return {bits_of(x.a), bits_of(x.b)}; }
SKYSOLVE_INLINE Pack real_of_bits(IntegerPack x) { return {real_of_bits(x.a), real_of_bits(x.b)}; }
SKYSOLVE_INLINE IntegerPack logical_shift_right(IntegerPack x, int n) { return {logical_shift_right(x.a, n), logical_shift_right(x.b, n)}; }
SKYSOLVE_INLINE Pack value_of(Pack x) { return x; }
SKYSOLVE_INLINE Pack select(IntegerPack choose, Pack x, Pack y) { return {select(choose.a, x.a, y.a), select(choose.b, x.b, y.b)}; }
SKYSOLVE_INLINE Pack square_root(Pack x) { return {square_root(x.a), square_root(x.b)}; }
SKYSOLVE_INLINE Pack nearest(Pack x) { return {nearest(x.a), nearest(x.b)}; }
SKYSOLVE_INLINE Pack reciprocal(Pack x) { return {reciprocal(x.a), reciprocal(x.b)}; }
SKYSOLVE_INLINE Pack reciprocal_root(Pack x) { return {reciprocal_root(x.a), reciprocal_root(x.b)}; }
SKYSOLVE_INLINE Pack madd(Pack x, Pack y, Pack z) { return {madd(x.a, y.a, z.a), madd(x.b, y.b, z.b)}; }
SKYSOLVE_INLINE Pack load(const double* a) { return {load_register(a), load_register(a + WIDTH)}; }
SKYSOLVE_INLINE void store(double* a, Pack x) { store(a, x.a), store(a + WIDTH, x.b); }
#else
constexpr int LANES = WIDTH;
using Pack = Register;
using IntegerPack = IntegerRegister;
SKYSOLVE_INLINE Pack load(const double* a) { return load_register(a); }
#endif

SKYSOLVE_INLINE double largest(Pack p) {
  double a[LANES];
  store(a, p);
  double most = a[0];
  for (int i = 1; i < LANES; i++) most = a[i] > most ? a[i] : most;
  return most;
}

}  // namespace SKYSOLVE_NAMESPACE
