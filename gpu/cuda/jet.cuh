// A value with its first and second derivatives in two variables, v and x; R is a double or a pack of doubles.
#pragma once
#include "double_double.cuh"

namespace SKYSOLVE_NAMESPACE {

template <class R> struct Jet { R f, v, x, vv, vx, xx; };

template <class R> SKYSOLVE_INLINE R value_of(const Jet<R>& a) { return a.f; }
// f(a) from f, f', f'' at a
template <class R> SKYSOLVE_INLINE Jet<R> compose(const Jet<R>& a, R f, R f1, R f2) {
  return {f, f1 * a.v, f1 * a.x, madd(f2, a.v * a.v, f1 * a.vv), madd(f2, a.v * a.x, f1 * a.vx), madd(f2, a.x * a.x, f1 * a.xx)};
}
template <class R> SKYSOLVE_INLINE Jet<R> operator+(const Jet<R>& a, const Jet<R>& b) {
  return {a.f + b.f, a.v + b.v, a.x + b.x, a.vv + b.vv, a.vx + b.vx, a.xx + b.xx};
}
template <class R> SKYSOLVE_INLINE Jet<R> operator-(const Jet<R>& a) { return {-a.f, -a.v, -a.x, -a.vv, -a.vx, -a.xx}; }
template <class R> SKYSOLVE_INLINE Jet<R> operator-(const Jet<R>& a, const Jet<R>& b) { return a + -b; }
template <class R> SKYSOLVE_INLINE Jet<R> operator+(const Jet<R>& a, double c) { return {a.f + c, a.v, a.x, a.vv, a.vx, a.xx}; }
template <class R> SKYSOLVE_INLINE Jet<R> operator*(const Jet<R>& a, const Jet<R>& b) {
  return {a.f * b.f,
          madd(a.f, b.v, a.v * b.f),
          madd(a.f, b.x, a.x * b.f),
          madd(a.f, b.vv, madd(a.vv, b.f, 2.0 * (a.v * b.v))),
          madd(a.f, b.vx, madd(a.vx, b.f, madd(a.v, b.x, a.x * b.v))),
          madd(a.f, b.xx, madd(a.xx, b.f, 2.0 * (a.x * b.x)))};
}
template <class R> SKYSOLVE_INLINE Jet<R> operator*(double c, const Jet<R>& a) {
  return {c * a.f, c * a.v, c * a.x, c * a.vv, c * a.vx, c * a.xx};
}
template <class R> SKYSOLVE_INLINE Jet<R> operator*(const Jet<R>& a, double c) { return c * a; }
template <class R> SKYSOLVE_INLINE Jet<R> operator/(double c, const Jet<R>& a) {
  R i = 1.0 / a.f;
  return c * compose(a, i, -i * i, 2.0 * i * i * i);
}
template <class R> SKYSOLVE_INLINE Jet<R> reciprocal(const Jet<R>& a) { return 1.0 / a; }
template <class R> SKYSOLVE_INLINE Jet<R> operator/(const Jet<R>& a, const Jet<R>& b) { return a * (1.0 / b); }
template <class R> SKYSOLVE_INLINE Jet<R> madd(const Jet<R>& a, const Jet<R>& b, const Jet<R>& c) { return a * b + c; }
template <class M, class R> SKYSOLVE_INLINE Jet<R> select(M choose, const Jet<R>& a, const Jet<R>& b) {
  return {select(choose, a.f, b.f),   select(choose, a.v, b.v),   select(choose, a.x, b.x),
          select(choose, a.vv, b.vv), select(choose, a.vx, b.vx), select(choose, a.xx, b.xx)};
}

// Polynomials: derivatives of the polynomial first (three fused operations a coefficient), the chain rule once.
template <class R> struct Derivatives { R f, f1, f2; };
template <class R> SKYSOLVE_INLINE Derivatives<R> differentiate(const double* c, int count, R t) {
  Derivatives<R> d = {constant<R>(c[0]), R{}, R{}};
  for (int i = 1; i < count; i++) {
    d.f2 = madd(d.f2, t, d.f1);
    d.f1 = madd(d.f1, t, d.f);
    d.f = madd(d.f, t, constant<R>(c[i]));
  }
  d.f2 = 2.0 * d.f2;
  return d;
}
template <class R> SKYSOLVE_INLINE Jet<R> polynomial(const double* c, int count, const Jet<R>& t) {
  Derivatives<R> d = differentiate(c, count, t.f);
  return compose(t, d.f, d.f1, d.f2);
}
template <class R>
SKYSOLVE_INLINE Jet<R> polynomial2(const double* c, const int* lengths, int rows, const Jet<R>& a, const Jet<R>& b) {
  Derivatives<R> sum = differentiate(c, lengths[0], b.f), slope = {R{}, R{}, R{}}, curve = slope;  // in b; of d/da, d2/da2
  c += lengths[0];
  for (int i = 1; i < rows; i++) {
    Derivatives<R> row = differentiate(c, lengths[i], b.f);
    curve.f = madd(curve.f, a.f, slope.f);
    slope = {madd(slope.f, a.f, sum.f), madd(slope.f1, a.f, sum.f1), R{}};
    sum = {madd(sum.f, a.f, row.f), madd(sum.f1, a.f, row.f1), madd(sum.f2, a.f, row.f2)};
    c += lengths[i];
  }
  Jet<R> in_a = compose(a, sum.f, slope.f, 2.0 * curve.f), in_b = compose(b, R{}, sum.f1, sum.f2);
  Jet<R> whole = in_a + in_b;
  whole.vv = madd(2.0 * slope.f1, a.v * b.v, whole.vv);
  whole.vx = madd(slope.f1, madd(a.v, b.x, a.x * b.v), whole.vx);
  whole.xx = madd(2.0 * slope.f1, a.x * b.x, whole.xx);
  return whole;
}

}  // namespace SKYSOLVE_NAMESPACE
