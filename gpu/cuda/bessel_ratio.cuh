// A_v(x) = I_{v+1}(x) / I_v(x) with its complement 1 - A, and the inverse in x: the concentration of a von Mises-Fisher
// distribution from its mean resultant length. Derivations: docs/log_bessel.md.
#pragma once
#include "log_bessel.cuh"

namespace SKYSOLVE_NAMESPACE {

template <class R> struct Ratio { R a, complement; };

// r >= 24: A = x/(r+v) - x w^2 (1/2 + G), G = sum w^k (k D_k + 2 s D_k'); 1 - x/(r+v) without cancellation.
template <int TERMS, class R> SKYSOLVE_INLINE Ratio<R> ratio_far(R v, R x) {
  R square = madd(v, v, x * x), w = reciprocal_root(square), r = square * w, p = v * w, less = x * w * w * (0.5 + expansion<TERMS>(RATIO, w, p * p));
  R i = reciprocal(r + v);
  return {x * i - less, (v + v * v * reciprocal(r + x)) * i + less};
}
// r < 24: A_v = x n/d with d_v = 2(v+1) d_{v+1} + x^2 d_{v+2}, n_v = d_{v+1} (DLMF 10.33.1 as a fraction without divisions),
// started from the leading term where A is small; each x has its own number of steps, enough to forget the start at v = 0.
template <class R> SKYSOLVE_INLINE Ratio<R> ratio_near(R v, R x) {
  R steps = nearest(10.0 + 1.5 * x), order = v + (steps + 1.0), square = x * x, n = constant<R>(1.0);
  R d = order + square_root(madd(order, order, square));
  for (int k = (int)largest(steps); k >= 1; k--) {
    auto begun = steps >= (double)k;
    R next = madd(square, n, 2.0 * (v + (double)k) * d);
    n = select(begun, d, n);
    d = select(begun, next, d);
  }
  R a = x * n * reciprocal(d);
  return {a, 1.0 - a};
}
template <class R> SKYSOLVE_INLINE Ratio<R> ratio(R v, R x) {
  R square = madd(v, v, x * x);
  auto far = square >= 576.0;
  Ratio<R> near = ratio_near(v, select(far, R{}, x));
  if (largest(select(far, constant<R>(1.0), R{})) == 0.0) return near;
  Ratio<R> beyond = ratio_far<16>(v, select(far, x, constant<R>(24.0)));
  return {select(far, beyond.a, near.a), select(far, beyond.complement, near.complement)};
}

// I_v / I_{v-1}, v >= 0: one order down where that is an order, one step of the recurrence (DLMF 10.29.1) where it is not.
template <class R> SKYSOLVE_INLINE R ratio_to_lower_order(R v, R x) {
  auto regular = v >= 1.0;
  Ratio<R> other = ratio(select(regular, v - 1.0, v), x);
  return select(regular, other.a, x / madd(x, other.a, 2.0 * v));
}

// The same outside v <= 2^500, 2^-500 <= x <= 2^500: x/(2v) for small x; x/(v + r) for large v or x; I_0/I_{-1} = I_0/I_1.
SKYSOLVE_INLINE double remote_ratio(double v, double x) {
  if (!(v >= 0 && x >= 0) || (v == infinite() && x == infinite())) return not_a_number();
  if (x < 1) return v == 0 ? 2.0 / x : 0.5 * (x / v);
  if (v == infinite()) return 0.0;
  if (x == infinite()) return 1.0;
  double t = v / x;
  return t < 1 ? 1.0 / (t + square_root(1.0 + t * t)) : (x / v) / (1.0 + square_root(1.0 + (x / v) * (x / v)));
}

// The x at which A_v(x) = a, given 1 - a as well; v >= 0, 0 < a < 1. Start: Banerjee et al. (2005, JMLR 6, eq. 4.4).
// Newton on A where A is nearly linear in x, on 1/(1-A) where that is; A' from the Riccati equation (DLMF 10.29.2).
template <class R> SKYSOLVE_INLINE R ratio_inverse(R v, R a, R complement) {
  R p = 2.0 * v + 2.0, gap = complement * (1.0 + a), most = a * p / gap;
  R x = a * (p - a * a) / gap;
  R unsettled = constant<R>(1.0);  // one by one, so that a value does not depend on its neighbours
  auto low = a < 0.5;
  for (int step = 0; step < 12 && largest(unsettled) > 0.0; step++) {
    Ratio<R> now = ratio(v, x);
    R slope = madd(now.complement, 1.0 + now.a, -(p - 1.0) * now.a / x);
    R change = select(low, (a - now.a) / slope, now.complement * (now.complement - complement) / (complement * slope));
    R next = x + change;
    next = select(next > 0.25 * x, next, 0.25 * x);  // false for nan too: a slope lost to rounding
    next = select(next < most, next, most);
    x = select(unsettled > 0.0, next, x);
    R moved = select(change < R{}, -change, change);
    unsettled = unsettled * counted<R>(moved > 1e-9 * x);  // quadratic: the next step would be below 1e-17
  }
  return x;
}

// ---- any arguments, packs and doubles alike: what is out of range runs along as something harmless and is put right ---------
template <class R> SKYSOLVE_INLINE R within(R a, double low, double high) {  // 1 or 0; 0 for nan
  return counted<R>(a >= low) * counted<R>(a <= high);
}
template <class R> SKYSOLVE_INLINE Ratio<R> any_ratio(R v, R x) {
  auto usual = within(v, 0.0, 0x1p500) * within(x, 0.0, 0x1p500) > 0.5;
  Ratio<R> value = ratio(select(usual, v, constant<R>(1.0)), select(usual, x, constant<R>(1.0)));
  R nan = constant<R>(not_a_number());
  return {select(usual, value.a, nan), select(usual, value.complement, nan)};
}
template <class R> SKYSOLVE_INLINE R any_ratio_inverse(R v, R a) {
  auto usual = within(v, 0.0, 0x1p60) * within(a, 0x1p-1000, 1.0 - 0x1p-53) > 0.5;
  R safe = select(usual, a, constant<R>(0.5)), value = ratio_inverse(select(usual, v, R{}), safe, 1.0 - safe);
  R nan = constant<R>(not_a_number()), zero = within(v, 0.0, 0x1p60) * within(a, 0.0, 0x1p-1000), one = within(v, 0.0, 0x1p60) * within(a, 1.0, 1.0);
  return select(usual, value, select(zero > 0.5, a * (2.0 * v + 2.0), select(one > 0.5, constant<R>(infinite()), nan)));
}
SKYSOLVE_INLINE void any_ratio_to_lower_order(double v, double x, double* out) {
  bool usual = v >= 0 && v <= 0x1p500 && x >= 0x1p-500 && x <= 0x1p500;
  out[0] = usual ? ratio_to_lower_order(v, x) : remote_ratio(v, x);
}
SKYSOLVE_INLINE void any_ratio(double v, double x, double* out) {
  Ratio<double> value = any_ratio(v, x);
  out[0] = value.a, out[1] = value.complement;
}
SKYSOLVE_INLINE void any_ratio_inverse(double v, double a, double* out) { out[0] = any_ratio_inverse(v, a); }

}  // namespace SKYSOLVE_NAMESPACE
