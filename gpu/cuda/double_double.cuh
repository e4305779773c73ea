// Arithmetic that kernels share, valid as CUDA C++ and as C++17: sums of two doubles, polynomials, bits of a double.
//
// Everything is a template over R: `double` on the GPU, a pack of doubles on the CPU (gpu/cpu/pack.h). Error-free sums and
// products after Dekker (1971) and Knuth (TAOCP 2, 4.2.2): compile without contraction (-ffp-contract=off, --fmad=false) and
// without -ffast-math; fused operations stand where they are wanted.
#pragma once
#include "portable.cuh"

namespace SKYSOLVE_NAMESPACE {

template <class R> SKYSOLVE_INLINE R constant(double c) { return R{} + c; }

// ---- two doubles: hi + lo, |lo| <= ulp(hi)/2 or a little more ---------------------------------------------------------
template <class R> struct Two { R hi, lo; };

template <class R> SKYSOLVE_INLINE Two<R> two_sum(R a, R b) {
  R s = a + b, t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}
// Needs |a| >= |b| or a = 0.
template <class R> SKYSOLVE_INLINE Two<R> fast_two_sum(R a, R b) {
  R s = a + b;
  return {s, b - (s - a)};
}
template <class R> SKYSOLVE_INLINE Two<R> two_product(R a, R b) {
  R p = a * b;
#if SKYSOLVE_FUSED
  return {p, madd(a, b, -p)};
#else
  const double split = 134217729.0;  // 2^27 + 1: halves whose products are exact, for |a|, |b| < 2^996
  R ca = split * a, ah = ca - (ca - a), al = a - ah, cb = split * b, bh = cb - (cb - b), bl = b - bh;
  return {p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
#endif
}
// c - a b, rounded once where a b is close to c.
template <class R> SKYSOLVE_INLINE R residual(R c, R a, R b) {
#if SKYSOLVE_FUSED
  return madd(-a, b, c);
#else
  Two<R> p = two_product(a, b);
  return (c - p.hi) - p.lo;
#endif
}
template <class R> SKYSOLVE_INLINE Two<R> operator+(Two<R> a, Two<R> b) {
  Two<R> s = two_sum(a.hi, b.hi);
  return {s.hi, s.lo + (a.lo + b.lo)};
}
template <class R> SKYSOLVE_INLINE Two<R> operator+(Two<R> a, R b) {
  Two<R> s = two_sum(a.hi, b);
  return {s.hi, s.lo + a.lo};
}
template <class R> SKYSOLVE_INLINE Two<R> as_two(R a) { return {a, R{}}; }
template <class R> SKYSOLVE_INLINE Two<R> operator-(Two<R> a) { return {-a.hi, -a.lo}; }
template <class R> SKYSOLVE_INLINE Two<R> operator*(R a, Two<R> b) {
  Two<R> p = two_product(a, b.hi);
  return {p.hi, madd(a, b.lo, p.lo)};
}
template <class R> SKYSOLVE_INLINE Two<R> operator*(Two<R> a, Two<R> b) {
  Two<R> p = two_product(a.hi, b.hi);
  return {p.hi, madd(a.hi, b.lo, madd(a.lo, b.hi, p.lo))};
}

template <class R> SKYSOLVE_INLINE Two<R> inverse(Two<R> a) {
  R d = reciprocal(a.hi);
  return {d, (residual(constant<R>(1.0), d, a.hi) - d * a.lo) * d};
}

// ---- polynomials, highest power first ---------------------------------------------------------------------------------
template <class N> SKYSOLVE_INLINE N polynomial(const double* c, int count, N t) {
  N sum = constant<N>(c[0]);
  SKYSOLVE_UNROLL
  for (int i = 1; i < count; i++) sum = madd(sum, t, constant<N>(c[i]));
  return sum;
}
template <int COUNT, class N> SKYSOLVE_INLINE N polynomial(const double (&c)[COUNT], N t) { return polynomial(c, COUNT, t); }

// Rows are polynomials in b, the coefficients of a polynomial in a.
template <class N> SKYSOLVE_INLINE N polynomial2(const double* c, const int* lengths, int rows, N a, N b) {
  N sum = polynomial(c, lengths[0], b);
  c += lengths[0];
  SKYSOLVE_UNROLL
  for (int i = 1; i < rows; i++) {
    sum = madd(sum, a, polynomial(c, lengths[i], b));
    c += lengths[i];
  }
  return sum;
}
// The same with only the last sum in two doubles: right to half an ulp of its variation, not of its size.
template <int COUNT, int ROWS, class R>
SKYSOLVE_INLINE Two<R> polynomial2_two(const double (&c)[COUNT], const int (&lengths)[ROWS], R a, R b) {
  constexpr int last = ROWS - 1;
  R upper = polynomial2(c, lengths, last, a, b);
  const double* row = c + COUNT - lengths[last];
  R lower = polynomial(row, lengths[last] - 1, b);
  return fast_two_sum(constant<R>(c[COUNT - 1]), madd(lower, b, upper * a));
}
template <int COUNT, int ROWS, class N>
SKYSOLVE_INLINE N polynomial2(const double (&c)[COUNT], const int (&lengths)[ROWS], N a, N b) {
  return polynomial2(c, lengths, ROWS, a, b);
}

}  // namespace SKYSOLVE_NAMESPACE
