// First and second derivatives of log I_v(x) and log K_v(x) in v and x, from the same polynomials as the values.
//
// Plain double: nothing here is multiplied by a large number after it was rounded. The value is left out (`f` is not set).
#pragma once
#include "jet.cuh"
#include "log_bessel.cuh"

namespace SKYSOLVE_NAMESPACE {

constexpr double LARGEST_RADIUS = 0x1p500;  // above it v^2 + x^2 may overflow

template <class R> SKYSOLVE_INLINE Jet<R> exponential(const Jet<R>& a) {
  R e = exponential(a.f);
  return compose(a, e, e, e);
}
template <class R> SKYSOLVE_INLINE Jet<R> logarithm(const Jet<R>& a) {
  Two<R> l = log_two(a.f);
  R i = 1.0 / a.f;
  return compose(a, l.hi + l.lo, i, -i * i);
}
template <class R> SKYSOLVE_INLINE Jet<R> order_jet(R v) { return {v, constant<R>(1.0), R{}, R{}, R{}, R{}}; }
template <class R> SKYSOLVE_INLINE Jet<R> argument_jet(R x) { return {x, R{}, constant<R>(1.0), R{}, R{}, R{}}; }

// phase less scaled x, -log(r)/2, w and p
template <class R> struct LeadingJet { Jet<R> phase, half_log, w, p; };
template <class R> SKYSOLVE_INLINE LeadingJet<R> leading_jet(R v, R x, double scaled) {
  R r = square_root(madd(v, v, x * x)), w = 1.0 / r, ix = 1.0 / x, a = v * w, b = x * w, w2 = w * w;
  R beyond = v * (v / (r + x));  // r - x
  Two<R> turns = log_ratio<0>(two_sum(x, v + beyond), as_two(x));
  Jet<R> phase = {R{}, -(turns.hi + turns.lo), madd(beyond, ix, constant<R>(1.0 - scaled)), -w, a * ix, -a * v * ix * ix};
  Jet<R> half_log = {R{}, -0.5 * a * w, -0.5 * b * w, 0.5 * (a * a - b * b) * w2, a * b * w2, 0.5 * (b * b - a * a) * w2};
  Jet<R> inverse = {w, -a * w2, -b * w2, (3.0 * a * a - 1.0) * w2 * w, 3.0 * a * b * w2 * w, (3.0 * b * b - 1.0) * w2 * w};
  Jet<R> sine = {a, b * b * w, -a * b * w, -3.0 * a * b * b * w2, b * (2.0 * a * a - b * b) * w2, a * (2.0 * b * b - a * a) * w2};
  return {phase, half_log, inverse, sine};
}
#define SKYSOLVE_FAR_DERIVATIVES(name, sign, remainder)                         \
  template <class R> SKYSOLVE_INLINE Jet<R> name(R v, R x, double scaled) {    \
    LeadingJet<R> a = leading_jet(v, x, scaled);                               \
    return sign a.phase + a.half_log + remainder;                              \
  }
SKYSOLVE_FAR_DERIVATIVES(derivatives_i_far, , expansion<16>(EXPANSION, a.w, a.p * a.p))
SKYSOLVE_FAR_DERIVATIVES(derivatives_i_12, , remainder_i_12(a.w, a.p))
SKYSOLVE_FAR_DERIVATIVES(derivatives_i_8, , remainder_i_8(a.w, a.p))
SKYSOLVE_FAR_DERIVATIVES(derivatives_k_far, -, expansion<16>(EXPANSION, -a.w, a.p * a.p))
SKYSOLVE_FAR_DERIVATIVES(derivatives_k_12, -, remainder_k_12(a.w, a.p * a.p))
SKYSOLVE_FAR_DERIVATIVES(derivatives_k_8, -, remainder_k_8(a.w, a.p * a.p))
#undef SKYSOLVE_FAR_DERIVATIVES

template <int TERMS, class R> SKYSOLVE_INLINE Jet<R> derivatives_i_near(R v_value, R x_value, double scaled) {
  Jet<R> v = order_jet(v_value), x = argument_jet(x_value), tail = series_tail<TERMS>(v, x), next = logarithm(v + 1.0);
  Jet<R> whole = v * (logarithm(0.5 * x) - next + 1.0) - 0.5 * next - stirling_rest(v) + logarithm(tail + 1.0);
  whole.x = whole.x - scaled;
  return whole;
}

template <class R> SKYSOLVE_INLINE Jet<R> upward(OrderPair<Jet<R>> start, Jet<R> u, R n, Jet<R> x) {
  Jet<R> before = start.k0, now = start.k1, q = 0.25 * (x * x), order = u + 1.0, result = select(n < 1.0, before, now);
  int last = most_steps(n);
  for (int j = 2; j <= last; j++) {
    Jet<R> next = order * now + q * before;
    before = now;
    now = next;
    order = order + 1.0;
    result = select(n < (double)j, result, now);
  }
  return result;
}
template <class R> SKYSOLVE_INLINE Jet<R> derivatives_k_small(R v, R x_value, double scaled) {
  R n = nearest(v);
  Jet<R> u = order_jet(v - n), x = argument_jet(x_value), l = -logarithm(0.5 * x);
  Jet<R> k = upward(k_small(u, l, 0.25 * (x * x)), u, n, x), whole = logarithm(k) + polynomial(LOG_REFLECTION, even(u));
  whole.x = whole.x - n / x_value + scaled;
  whole.xx = whole.xx + n / (x_value * x_value);
  return whole;
}
template <class R> SKYSOLVE_INLINE Jet<R> derivatives_k_middle(Jet<R> k, Jet<R> slope, Jet<R> u, R n, Jet<R> x, double scaled) {
  Jet<R> whole = logarithm(upward(OrderPair<Jet<R>>{k, 0.5 * (u * k + x * slope)}, u, n, x));
  whole.x = whole.x - (n + 0.5) / x.f + (scaled - 1.0);
  whole.xx = whole.xx + (n + 0.5) / (x.f * x.f);
  return whole;
}
template <class R> SKYSOLVE_INLINE Jet<R> derivatives_k_1(R v, R x_value, double scaled) {
  R n = nearest(v);
  Jet<R> u = order_jet(v - n), x = argument_jet(x_value), a = inverse_1(x), b = even(u);
  return derivatives_k_middle(polynomial2(K_1_5_2, K_1_5_2_LENGTHS, a, b), polynomial2(K_SLOPE_1_5_2, K_SLOPE_1_5_2_LENGTHS, a, b), u,
                              n, x, scaled);
}
template <class R> SKYSOLVE_INLINE Jet<R> derivatives_k_5_2(R v, R x_value, double scaled) {
  R n = nearest(v);
  Jet<R> u = order_jet(v - n), x = argument_jet(x_value), a = inverse_5_2(x), b = even(u);
  return derivatives_k_middle(polynomial2(K_5_2_8, K_5_2_8_LENGTHS, a, b), polynomial2(K_SLOPE_5_2_8, K_SLOPE_5_2_8_LENGTHS, a, b), u,
                              n, x, scaled);
}

// ---- one at a time: outside x in [2^-930, 2^31], v in [0, 2^31] -----------------------------------------------------------
SKYSOLVE_INLINE bool has_derivatives(double v, double x) {  // false for nan
  return v >= 0 && x >= TINY_ARGUMENT && v <= LARGEST_RADIUS && x <= LARGEST_RADIUS;
}
SKYSOLVE_INLINE Jet<double> no_derivatives() {
  const double nan = not_a_number();
  return {nan, nan, nan, nan, nan, nan};
}
SKYSOLVE_INLINE Jet<double> derivatives_i_remote(double v, double x, double scaled) {
  return has_derivatives(v, x) ? derivatives_i_far(v, x, scaled) : no_derivatives();
}
// K is even in v.
SKYSOLVE_INLINE Jet<double> derivatives_k_remote(double v, double x, double scaled) {
  double order = v < 0 ? -v : v, square = order * order + x * x;
  if (!has_derivatives(order, x)) return no_derivatives();
  Jet<double> d = square >= 576.0   ? derivatives_k_far(order, x, scaled)
                  : square >= 144.0 ? derivatives_k_12(order, x, scaled)
                  : square >= 64.0  ? derivatives_k_8(order, x, scaled)
                  : x <= 1.0        ? derivatives_k_small(order, x, scaled)
                  : x <= 2.5        ? derivatives_k_1(order, x, scaled)
                                    : derivatives_k_5_2(order, x, scaled);
  if (v < 0) d.v = -d.v, d.vx = -d.vx;
  return d;
}

}  // namespace SKYSOLVE_NAMESPACE
