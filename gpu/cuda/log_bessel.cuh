// log I_v(x) and log K_v(x) at real order v >= 0, x > 0; their first and second derivatives in v and x; I_{v+1}/I_v and
// its inverse. Derivations: docs/log_bessel.md. Notation: r = sqrt(v^2 + x^2), w = 1/r, s = (v/r)^2,
// phase = r - v asinh(v/x).
//
// Regimes, first match wins; r decides, so that one set of bounds serves every angle:
//   remote     x or v > 2^31, x < 2^-930, zero, infinite, negative, nan   scaled by powers of two; limits
//   v = 0                     1 + series or fit in 1/x and one log; K with its logarithm below 1     DLMF 10.31.2, 10.40.1-2
//   v = 1/2, 3/2, log K       closed forms                                DLMF 10.49.12
//   r >= 1500, 220, 64, 24    uniform expansion, 4, 6, 9, 16 terms        logarithm of DLMF 10.41.3-4
//   r >= 12, 8                the same leading terms, fitted remainder    tables; K loses smoothness at x -> 0 below 8
//   r < 8, log I              power series without divisions, 9 terms, from x = 1 on 23             DLMF 10.25.2
//   r < 8, log K, x <= 1      Temme's form at |u| <= 1/2, upward in order J. Comp. Phys. 19 (1975) 324; DLMF 10.27.4, 10.29.1
//   r < 8, log K, x > 1       fits of K_u and K_u' at |u| <= 1/2, upward  tables; DLMF 10.29.1-2
//
// The leading terms nearly cancel where log I = 0 (v/x near 1.509), so they are carried in two doubles.
// Both logs cross zero, so error means |got - want| / max(1, |want|).
// Measured by tests/gpu/test_log_bessel.py: v in [0, 1e6], x in [1e-6, 1e6], 20,400 points; log I peak 3.4e-16, log K peak
// 3.1e-16 (r >= 8: peaks 2.9e-16); portable and AVX2 builds on x86-64.
#pragma once

#include "double_double.cuh"
#include "log_bessel_tables.cuh"

namespace SKYSOLVE_NAMESPACE {

constexpr double HUGE_ARGUMENT = 2147483648.0;  // 2^31: above it r - x loses digits that the scaled logs need
constexpr double TINY_ARGUMENT = 0x1p-930;      // below it (v + r)/x may overflow

// ---- logarithm and exponential ----------------------------------------------------------------------------------------
// k log 2 is exact in the first part for |k| < 2^11: it has 42 bits.
constexpr double LOG_2 = 0x1.62e42fefa38p-1, LOG_2_LOW = 0x1.ef35793c7673p-45;

template <class R> SKYSOLVE_INLINE R real_of_small_integer(typename Integer<R>::type i) {  // 0 <= i < 2^52
  return real_of_bits(i | 0x4330000000000000LL) - 4503599627370496.0;
}

TABLE double ODD[3] = {1.0 / 7, 1.0 / 5, 1.0 / 3};
// (atanh(f)/f - the terms up to f^(6 - 2 TERMS)) / f^(8 - 2 TERMS), y = f^2 at most 0.0402
template <int TERMS, class R> SKYSOLVE_INLINE R atanh_rest(R y) {
  R sum = polynomial(ATANH_TAIL, y);
  for (int i = 0; i < TERMS; i++) sum = madd(sum, y, constant<R>(ODD[i]));
  return sum;
}

// log(a/b) for positive normal a, b with |log2(a/b)| < 1000, as two doubles; the second may be 1e-13 of the first.
//
// a/b = 2^k m with m in [0.666, 1.502] and log m = 2 atanh(f), f = (m-1)/(m+1); k comes from the difference of the bit
// patterns, which is log2 to 0.0861 each way. The first STEPS terms after 2f are carried in two doubles: the absolute error is
// then about 2^-53 f^(2 STEPS + 3)/(STEPS + 3/2) at worst: 6e-19, 1e-20, 4e-22, 1e-23 for STEPS = 0 .. 3.
template <int STEPS, class R> SKYSOLVE_INLINE Two<R> log_ratio(Two<R> a, Two<R> b) {
  using I = typename Integer<R>::type;
  constexpr double odd_lo[] = {0x1.2492492492492p-57, -0x1.999999999999ap-57, 0x1.5555555555555p-56};
  I biased = logical_shift_right(bits_of(a.hi) - bits_of(b.hi) + 0x3ff8000000000000LL, 52);
  R k = real_of_small_integer<R>(biased) - 1023.0, scale = real_of_bits((2046LL - biased) << 52);
  Two<R> n = {a.hi * scale, a.lo * scale};
  Two<R> difference = {n.hi - b.hi, n.lo - b.lo};  // the first is exact: they are within a factor of two (Sterbenz)
  Two<R> sum = fast_two_sum(2.0 * b.hi, difference.hi);
  sum.lo += n.lo + b.lo;
  R inverse = reciprocal(sum.hi), f = difference.hi * inverse;
  R f_lo = (residual(difference.hi, f, sum.hi) + (difference.lo - f * sum.lo)) * inverse;
  Two<R> twice = {2.0 * f, 2.0 * f_lo}, y = {f * f, R{}};
  if (STEPS > 0) {
    y = two_product(f, f);
    y.lo = madd(twice.hi, f_lo, y.lo);
  }
  R tail = atanh_rest<3 - STEPS>(y.hi);
  Two<R> leading = fast_two_sum(k * LOG_2, twice.hi);
  if (STEPS == 0) return {leading.hi, leading.lo + madd(k, constant<R>(LOG_2_LOW), madd(twice.hi * y.hi, tail, twice.lo))};
  Two<R> terms = {tail, R{}};
  for (int i = 3 - STEPS; i < 3; i++) {
    Two<R> p = y * terms;
    terms = fast_two_sum(constant<R>(ODD[i]), p.hi);
    terms.lo += p.lo + odd_lo[i];
  }
  Two<R> after = twice * (y * terms), whole = fast_two_sum(leading.hi, after.hi);
  return {whole.hi, whole.lo + (leading.lo + (after.lo + madd(k, constant<R>(LOG_2_LOW), twice.lo)))};
}
template <class R> SKYSOLVE_INLINE Two<R> log_two(R a) { return log_ratio<0>(as_two(a), as_two(constant<R>(1.0))); }

// e^a for |a| < 700
template <class R> SKYSOLVE_INLINE R exponential(R a) {
  R k = nearest(a * 1.4426950408889634), f = madd(k, constant<R>(-LOG_2), a);
  f = madd(k, constant<R>(-LOG_2_LOW), f);
  auto biased = bits_of(k + 4503599627371519.0) & 0xfffLL;  // 2^52 + 1023
  return polynomial(EXP, f) * real_of_bits(biased << 52);
}

template <class R> SKYSOLVE_INLINE Two<R> exponential_two(Two<R> a) {
  R k = nearest(a.hi * 1.4426950408889634), f = madd(k, constant<R>(-LOG_2), a.hi);
  f = madd(k, constant<R>(-LOG_2_LOW), f) + a.lo;
  constexpr int powers = sizeof(EXP) / sizeof(EXP[0]);
  Two<R> one_and_f = fast_two_sum(constant<R>(1.0), f);
  one_and_f = fast_two_sum(one_and_f.hi, one_and_f.lo + f * f * polynomial(EXP, powers - 2, f));
  R scale = real_of_bits((bits_of(k + 4503599627371519.0) & 0xfffLL) << 52);
  return {one_and_f.hi * scale, one_and_f.lo * scale};
}

// ---- what the leading terms leave: functions of (v, x), for reals and for jets ----------------------------------------
// sum of w^k D_k(s), k <= TERMS; for K the odd terms change sign, which is the sign of w (DLMF 10.41.4).
// Truncation at the lower bound of each regime, worst over the angle: 2.7e-16 (16 at 24), 1.0e-16 (9 at 64), 6.7e-17
// (6 at 220), 2.8e-17 (4 at 1500), found by comparing with 40 terms in tests/gpu/test_tables.py.
template <int TERMS, class N> SKYSOLVE_INLINE N expansion(const double (&rows)[152], N w, N s) {
  constexpr int first = 16 - TERMS, skipped = first * 17 - first * (first - 1) / 2;
  return w * polynomial2(rows + skipped, EXPANSION_LENGTHS + first, TERMS, w, s);
}
template <class N> SKYSOLVE_INLINE N affine(N t, double low, double high) {
  return madd(t, constant<N>(2.0 / (high - low)), constant<N>(-(high + low) / (high - low)));
}
template <class N> SKYSOLVE_INLINE N remainder_i_8(N w, N p) {
  return polynomial2(I_8_12, I_8_12_LENGTHS, affine(w, 1.0 / 12, 1.0 / 8), affine(p, 0.0, 1.0));
}
template <class N> SKYSOLVE_INLINE N remainder_i_12(N w, N p) {
  return polynomial2(I_12_24, I_12_24_LENGTHS, affine(w, 1.0 / 24, 1.0 / 12), affine(p, 0.0, 1.0));
}
template <class N> SKYSOLVE_INLINE N remainder_k_8(N w, N s) {
  return polynomial2(K_8_12, K_8_12_LENGTHS, affine(w, 1.0 / 12, 1.0 / 8), affine(s, 0.0, 1.0));
}
template <class N> SKYSOLVE_INLINE N remainder_k_12(N w, N s) {
  return polynomial2(K_12_24, K_12_24_LENGTHS, affine(w, 1.0 / 24, 1.0 / 12), affine(s, 0.0, 1.0));
}

// sum over k >= 1 of q^k / (k! (v+1)_k), q = x^2/4, as one fraction. The first term left out is below 1e-17 of the sum at v = 0,
// the worst order, for x <= 1 with 9 terms, x <= 2 with 11 and x <= 8 with 23. (As many for every x: a count by the largest x of a pack would let
// a value depend on its neighbours.)
template <int TERMS, class N> SKYSOLVE_INLINE N series_tail(N v, N x) {
  N q = x * x * 0.25, n = constant<N>(1.0), d = n;
  SKYSOLVE_UNROLL
  for (int k = TERMS; k >= 2; k--) {
    d = d * madd(v, constant<N>((double)k), constant<N>((double)k * k));
    n = madd(q, n, d);
  }
  return q * n * reciprocal((v + 1.0) * d);
}
// log Gamma(1+v) = (v + 1/2) log(v+1) - v + this; zero at v = 0. For v <= 8.
template <class N> SKYSOLVE_INLINE N stirling_rest(N v) {
  N t = reciprocal(v + 1.0);
  return v * t * polynomial(STIRLING, affine(t, 1.0 / 9, 1.0));
}

// x <= 1, l = log(2/x), q = x^2/4: K_u = (pi u / sin pi u) (D cosh(u l) + E sinh(u l)/u) with D and E entire in q and u^2, and
// x K_{u+1} = u K_u - x K_u' (DLMF 10.27.4, 10.25.2, 10.29.2). Both without the first factor; K_{u+1} times x/2.
template <class N> struct OrderPair { N k0, k1; };
template <class N> SKYSOLVE_INLINE N reduced_q(N q) { return affine(q, 0.0, 0.25); }
template <class N> SKYSOLVE_INLINE N even(N u) { return affine(u * u, 0.0, 0.25); }

template <class N> SKYSOLVE_INLINE OrderPair<N> k_small(N u, N l, N q) {
  N a = reduced_q(q), b = even(u), ul = u * l, z = ul * ul;
  N d = polynomial2(TEMME_D, TEMME_D_LENGTHS, a, b), e = polynomial2(TEMME_E, TEMME_E_LENGTHS, a, b);
  N d_q = polynomial2(TEMME_D_Q, TEMME_D_Q_LENGTHS, a, b), e_q = polynomial2(TEMME_E_Q, TEMME_E_Q_LENGTHS, a, b);
  auto near_zero = value_of(z) < 0.25;
  N up = exponential(ul), down = 1.0 / up, cosh = 0.5 * (up + down);
  N sinh_over_u = l * select(near_zero, polynomial(SINH, z), 0.5 * (up - down) / select(near_zero, constant<N>(1.0), ul));
  return {madd(d, cosh, e * sinh_over_u), 0.5 * madd(u, d, e) * up - q * madd(d_q, cosh, e_q * sinh_over_u)};
}
// The same in two doubles where it matters: D and E sinh/u differ in sign and come within a factor of three at x = 1.
template <bool FIRST_ONLY = false, class R> SKYSOLVE_INLINE OrderPair<Two<R>> k_small_two(R u, Two<R> l, Two<R> q) {
  R a = reduced_q(q.hi), b = even(u);
  Two<R> d = polynomial2_two(TEMME_D, TEMME_D_LENGTHS, a, b), e = polynomial2_two(TEMME_E, TEMME_E_LENGTHS, a, b);
  Two<R> ul = u * l, up = exponential_two(ul), down = inverse(up);
  R z = ul.hi * ul.hi, one = constant<R>(1.0);
  auto near_zero = z < 0.25;
  Two<R> cosh = up + down, sinh = up + -down, series = fast_two_sum(one, z * polynomial(SINH, 6, z));
  cosh = {0.5 * cosh.hi, 0.5 * cosh.lo};
  Two<R> ratio = Two<R>{0.5 * sinh.hi, 0.5 * sinh.lo} * inverse(Two<R>{select(near_zero, one, ul.hi), ul.lo});
  Two<R> sinh_over_u = l * Two<R>{select(near_zero, series.hi, ratio.hi), select(near_zero, series.lo, ratio.lo)};
  Two<R> k0 = d * cosh + e * sinh_over_u;
  if (FIRST_ONLY) return {k0, k0};
  Two<R> d_q = polynomial2_two(TEMME_D_Q, TEMME_D_Q_LENGTHS, a, b), e_q = polynomial2_two(TEMME_E_Q, TEMME_E_Q_LENGTHS, a, b);
  Two<R> half = (u * d + e) * up, k1 = Two<R>{0.5 * half.hi, 0.5 * half.lo} + -(q * (d_q * cosh + e_q * sinh_over_u));
  return {k0, k1};
}

// x in [1, 8], without e^-x sqrt(pi/(2x)): K_{u+1} = -K_u' + (u/x) K_u from fits of K_u and -K_u', both even in u.
template <class N> SKYSOLVE_INLINE N inverse_1(N x) { return affine(reciprocal(x), 0.4, 1.0); }
template <class N> SKYSOLVE_INLINE N inverse_5_2(N x) { return affine(reciprocal(x), 0.125, 0.4); }

// Steps of the recurrence: below r = 8, 8 at most, whatever arguments of other regimes run along.
template <class R> SKYSOLVE_INLINE int most_steps(R n) {
  double most = largest(n);
  return most < 8.0 ? (int)most : 8;
}
// From K_u and K_{u+1} x/2 to K_{u+n} (x/2)^n (DLMF 10.29.1 times powers of x/2, which keeps it in range); carried in two
// doubles, so that eight steps add no error.
template <class R> SKYSOLVE_INLINE Two<R> upward(Two<R> k0, Two<R> k1, R u, R n, R x) {
  Two<R> before = k0, now = k1, q = two_product(0.5 * x, 0.5 * x), result;
  result = {select(n < 1.0, k0.hi, k1.hi), select(n < 1.0, k0.lo, k1.lo)};
  R order = u + 1.0;
  int last = most_steps(n);
  for (int j = 2; j <= last; j++) {
    Two<R> next = order * now + q * before;
    before = now;
    now = next;
    order = order + 1.0;
    auto done = n < (double)j;
    result = {select(done, result.hi, now.hi), select(done, result.lo, now.lo)};
  }
  return result;
}

// ---- values -----------------------------------------------------------------------------------------------------------
// `scaled` is 1 for the log of the exponentially scaled function, 0 else: log I - x, log K + x.
template <class R> struct Leading { Two<R> phase, half_log; R w, p; };  // phase less scaled x; log(r)/2

// log(h) to 8e-17; of the first part nothing is lost.
template <class R> SKYSOLVE_INLINE Two<R> quick_log(R h) {
  using I = typename Integer<R>::type;
  I biased = logical_shift_right(bits_of(h) - 0x3ff0000000000000LL + 0x3ff8000000000000LL, 52);
  R k = real_of_small_integer<R>(biased) - 1023.0, m = h * real_of_bits((2046LL - biased) << 52);
  R f = (m - 1.0) * reciprocal(m + 1.0), y = f * f, tail = atanh_rest<3>(y), twice = 2.0 * f;
  Two<R> sum = fast_two_sum(k * LOG_2, twice);
  return {sum.hi, madd(k, constant<R>(LOG_2_LOW), madd(twice * y, tail, sum.lo))};
}
// Needs r >= 8.
template <int STEPS, class R> SKYSOLVE_INLINE Leading<R> leading(R v, R x, double scaled) {
  Two<R> vv = two_product(v, v), xx = two_product(x, x), h = two_sum(vv.hi, xx.hi);
  h.lo += vv.lo + xx.lo;
  R w = reciprocal_root(h.hi), r = h.hi * w, r_lo = (residual(h.hi, r, r) + h.lo) * (0.5 * w);
  Two<R> n = fast_two_sum(r, v), turns, reach = fast_two_sum(r, -scaled * x);
  n.lo += r_lo;
  turns = v * log_ratio<STEPS>(n, as_two(x));
  reach.lo += r_lo;
  Two<R> log_h = quick_log(h.hi);
  return {reach + -turns, Two<R>{0.25 * log_h.hi, 0.25 * log_h.lo}, w, v * w};
}
template <class R> SKYSOLVE_INLINE R assemble_i(Leading<R> a, R remainder) {
  Two<R> c = fast_two_sum(a.half_log.hi, constant<R>(0.5 * LOG_2PI)), y = two_sum(a.phase.hi, -c.hi);
  return y.hi + (y.lo + (a.phase.lo - (c.lo + a.half_log.lo + 0.5 * LOG_2PI_LOW)) + remainder);
}
template <class R> SKYSOLVE_INLINE R assemble_k(Leading<R> a, R remainder) {
  Two<R> c = fast_two_sum(a.half_log.hi, constant<R>(-0.5 * LOG_PI_2)), y = two_sum(-a.phase.hi, -c.hi);
  return y.hi + (y.lo - (a.phase.lo + (c.lo + a.half_log.lo - 0.5 * LOG_PI_2_LOW)) + remainder);
}

// The logarithm's error is multiplied by v: below 220, 1500 and 2^31 it takes 0, 1 and 3 exact terms to keep it small.
template <int TERMS> struct Steps { static constexpr int value = TERMS == 6 ? 1 : TERMS == 4 ? 3 : 0; };

template <int TERMS, int STEPS = Steps<TERMS>::value, class R> SKYSOLVE_INLINE R log_i_far(R v, R x, double scaled) {
  Leading<R> a = leading<STEPS>(v, x, scaled);
  return assemble_i(a, expansion<TERMS>(EXPANSION, a.w, a.p * a.p));
}
template <int TERMS, int STEPS = Steps<TERMS>::value, class R> SKYSOLVE_INLINE R log_k_far(R v, R x, double scaled) {
  Leading<R> a = leading<STEPS>(v, x, scaled);
  return assemble_k(a, expansion<TERMS>(EXPANSION, -a.w, a.p * a.p));
}
template <class R> SKYSOLVE_INLINE R log_i_12(R v, R x, double scaled) {
  Leading<R> a = leading<0>(v, x, scaled);
  return assemble_i(a, remainder_i_12(a.w, a.p));
}
template <class R> SKYSOLVE_INLINE R log_i_8(R v, R x, double scaled) {
  Leading<R> a = leading<0>(v, x, scaled);
  return assemble_i(a, remainder_i_8(a.w, a.p));
}
template <class R> SKYSOLVE_INLINE R log_k_12(R v, R x, double scaled) {
  Leading<R> a = leading<0>(v, x, scaled);
  return assemble_k(a, remainder_k_12(a.w, a.p * a.p));
}
template <class R> SKYSOLVE_INLINE R log_k_8(R v, R x, double scaled) {
  Leading<R> a = leading<0>(v, x, scaled);
  return assemble_k(a, remainder_k_8(a.w, a.p * a.p));
}

// x <= 1: every part but the last has the sign of the result, so one double does.
template <class R> SKYSOLVE_INLINE R log_i_small(R v, R x, double scaled) {
  R gamma = polynomial(LOG_GAMMA, affine(v * reciprocal(v + 3.0), 0.0, 8.0 / 11));
  R tail = series_tail<9>(v, x), log_sum = tail * polynomial(LOG1P, tail);
  Two<R> l = quick_log(0.5 * x), slope = two_sum(l.hi, -gamma);
  return madd(v, slope.hi, madd(v, slope.lo + l.lo, log_sum - scaled * x));
}
// v = 0: log(1 + tail) below x = 8, from there x - log(2 pi x)/2 and a fit; one logarithm serves both.
template <class R> SKYSOLVE_INLINE R log_i_zero(R, R x, double scaled) {
  auto near = x < 8.0;
  R q = 0.25 * (x * x), one = constant<R>(1.0), w = reciprocal(x);
  Two<R> sum = two_sum(one, q * polynomial(I_ZERO_TAIL, affine(q, 0.0, 16.0)));
  Two<R> l = log_ratio<0>(Two<R>{select(near, sum.hi, x), select(near, sum.lo, R{})}, as_two(one));
  R share = select(near, one, constant<R>(-0.5)), own = select(near, R{}, x) - scaled * x;
  R rest = select(near, R{}, madd(w, polynomial(I_ZERO_FAR, affine(w, 0.0, 1.0 / 8)), constant<R>(-0.5 * LOG_2PI)));
  Two<R> y = two_sum(own, share * l.hi);
  return y.hi + (y.lo + madd(share, l.lo, rest));
}
// v (log(x/2) - log(v+1) + 1) - rest + log((1+tail)^2/(v+1))/2: nothing large cancels, and at v = 0 the last term is alone and
// right relative to itself.
template <int TERMS, class R> SKYSOLVE_INLINE R log_i_near(R v, R x, double scaled) {
  Two<R> next = two_sum(v, constant<R>(1.0)), l = log_ratio<0>(as_two(0.5 * x), next);
  R tail = series_tail<TERMS>(v, x), square = tail * (2.0 + tail);
  Two<R> half_log = log_ratio<0>(two_sum(constant<R>(1.0), square), next), head = v * (l + constant<R>(1.0));
  Two<R> y = head + Two<R>{0.5 * half_log.hi, 0.5 * half_log.lo};
  Two<R> shifted = two_sum(y.hi, -scaled * x);
  return shifted.hi + (shifted.lo + (y.lo - stirling_rest(v)));
}

// log(k (x/2)^-power) + shift + constant, where log(x/2) is given
template <class R> SKYSOLVE_INLINE R log_k_from(Two<R> k, R power, Two<R> log_half_x, Two<R> shift, double high, double low) {
  Two<R> y = log_ratio<0>(k, as_two(constant<R>(1.0))) + -(power * log_half_x) + shift + constant<R>(high);
  return y.hi + (y.lo + low);
}
template <class R> SKYSOLVE_INLINE R log_k_small(R v, R x, double scaled) {
  R n = nearest(v), u = v - n;
  Two<R> l = log_two(0.5 * x);
  l = fast_two_sum(l.hi, l.lo);
  OrderPair<Two<R>> start = k_small_two(u, -l, two_product(0.5 * x, 0.5 * x));
  Two<R> shift = two_sum(scaled * x, polynomial(LOG_REFLECTION, even(u)));
  return log_k_from(upward(start.k0, start.k1, u, n, x), n, l, shift, 0.0, 0.0);
}
template <class R> SKYSOLVE_INLINE R log_k_low(R u, R x, double scaled) {  // order below 1/2: no recurrence
  Two<R> l = log_two(0.5 * x), k = k_small_two<true>(u, -fast_two_sum(l.hi, l.lo), two_product(0.5 * x, 0.5 * x)).k0;
  Two<R> y = log_ratio<0>(k, as_two(constant<R>(1.0))) + two_sum(scaled * x, polynomial(LOG_REFLECTION, even(u)));
  return y.hi + y.lo;
}
// sqrt(pi/(2x)) = sqrt(pi/4) (x/2)^(-1/2)
template <class R> SKYSOLVE_INLINE R log_k_middle(Two<R> k, Two<R> slope, R u, R n, R x, double scaled) {
  Two<R> twice = u * k + x * slope, k1 = {0.5 * twice.hi, 0.5 * twice.lo};
  return log_k_from(upward(k, k1, u, n, x), n + 0.5, log_two(0.5 * x), as_two((scaled - 1.0) * x), HALF_LOG_PI_4, HALF_LOG_PI_4_LOW);
}
template <class R> SKYSOLVE_INLINE R log_k_1(R v, R x, double scaled) {
  R n = nearest(v), u = v - n, a = inverse_1(x), b = even(u);
  return log_k_middle(polynomial2_two(K_1_5_2, K_1_5_2_LENGTHS, a, b), polynomial2_two(K_SLOPE_1_5_2, K_SLOPE_1_5_2_LENGTHS, a, b), u,
                      n, x, scaled);
}
template <class R> SKYSOLVE_INLINE R log_k_5_2(R v, R x, double scaled) {
  R n = nearest(v), u = v - n, a = inverse_5_2(x), b = even(u);
  return log_k_middle(polynomial2_two(K_5_2_8, K_5_2_8_LENGTHS, a, b), polynomial2_two(K_SLOPE_5_2_8, K_SLOPE_5_2_8_LENGTHS, a, b), u,
                      n, x, scaled);
}

// v = 0. x <= 1: K_0 = (log(2/x) - gamma) I_0 + a series, both positive; above, a fit of what the leading terms leave.
template <class R> SKYSOLVE_INLINE R log_k_zero(R, R x, double scaled) {
  auto near = x <= 1.0;
  R z = reciprocal(x + 1.0);
  Two<R> l = log_ratio<0>(as_two(x), as_two(constant<R>(1.0))), y = two_sum((scaled - 1.0) * x, -0.5 * l.hi);
  R far = y.hi + (y.lo + (madd(z, polynomial(K_ZERO_FAR, affine(z, 0.0, 0.5)), constant<R>(0.5 * LOG_PI_2)) - 0.5 * l.lo));
  if (largest(select(near, constant<R>(1.0), R{})) == 0.0) return far;
  R q = 0.25 * (x * x);
  Two<R> m = two_sum(-l.hi, constant<R>(LOG_2_LESS_GAMMA));
  m = fast_two_sum(m.hi, m.lo + (LOG_2_LESS_GAMMA_LOW - l.lo));
  Two<R> k = two_sum(m.hi, q * madd(m.hi, polynomial(I_ZERO_SMALL, q), polynomial(K_ZERO_REST, q)));
  k.lo += m.lo;
  Two<R> whole = log_ratio<0>(k, as_two(constant<R>(1.0))), shifted = two_sum(whole.hi, scaled * x);
  return select(near, shifted.hi + (shifted.lo + whole.lo), far);
}
// v = 1/2 and 3/2: sqrt(pi/(2x)) e^-x, and (1 + 1/x) times that (DLMF 10.49.12).
template <class R> SKYSOLVE_INLINE R log_k_half(R v, R x, double scaled) {
  Two<R> l = quick_log(x), y = two_sum((scaled - 1.0) * x, -0.5 * l.hi);
  R low = y.lo + madd(constant<R>(-0.5), l.lo, constant<R>(0.5 * LOG_PI_2));
  if (largest(v) < 1.0) return y.hi + low;
  auto second = v > 1.0;
  Two<R> more = log_ratio<0>(two_sum(x, constant<R>(1.0)), as_two(x)), sum = two_sum(y.hi, select(second, more.hi, R{}));
  return sum.hi + (sum.lo + (low + select(second, more.lo, R{})));
}

// ---- remote arguments, one at a time ----------------------------------------------------------------------------------
struct Scaled { double value; int exponent; };  // value in [1, 2) times 2^exponent
SKYSOLVE_INLINE Scaled scaled_parts(double a) {
  int lift = a < 0x1p-1000 ? 100 : 0;
  double b = lift ? a * 0x1p100 : a;
  int exponent = (int)(bits_of(b) >> 52) - 1023;
  return {real_of_bits((bits_of(b) & 0x000fffffffffffffLL) | 0x3ff0000000000000LL), exponent - lift};
}
SKYSOLVE_INLINE double times_power_of_two(double a, int n) {
  for (; n > 1000; n -= 1000) a *= 0x1p1000;
  for (; n < -1000; n += 1000) a *= 0x1p-1000;
  return a * real_of_bits((int64)(n + 1023) << 52);
}
SKYSOLVE_INLINE double infinite() { return real_of_bits(0x7ff0000000000000LL); }
SKYSOLVE_INLINE double not_a_number() { return real_of_bits(0x7ff8000000000000LL); }

// x or v above 2^31: the larger one is brought to [1, 2). The phase, of degree 1, and log r scale back; of the remainder
// only the first term, below 1e-10, is left.
SKYSOLVE_INLINE double remote_far(double v, double x, double scaled, double sign) {
  Scaled large = scaled_parts(v > x ? v : x), own = scaled_parts(x);
  double a = times_power_of_two(v, -large.exponent), b = times_power_of_two(x, -large.exponent), r = square_root(a * a + b * b);
  int turns = v > x ? large.exponent - own.exponent : 0;  // log((v + r)/x) takes x by its own exponent, so that nothing overflows
  Two<double> vv = two_product(a, a), xx = two_product(b, b), h = two_sum(vv.hi, xx.hi);
  double r_lo = (residual(h.hi, r, r) + (h.lo + vv.lo + xx.lo)) / (2.0 * r);
  Two<double> n = two_sum(a, r);
  n.lo += r_lo;
  Two<double> angle = log_ratio<3>(n, as_two(v > x ? own.value : b)) + (double)turns * Two<double>{LOG_2, LOG_2_LOW};
  Two<double> reach = two_sum(r, -b);
  reach.lo += r_lo;
  if (b >= a) {  // r - x = v^2/(r + x) keeps its digits, in two doubles
    Two<double> i = inverse(two_sum(r, b));
    reach = vv * i;
  }
  Two<double> phase = reach + -(a * angle), unit = log_two(r), log_r = (double)large.exponent * Two<double>{LOG_2, LOG_2_LOW} + unit;
  phase = {times_power_of_two(phase.hi, large.exponent), times_power_of_two(phase.lo, large.exponent)};
  Two<double> whole = phase + (1.0 - scaled) * x, half = log_r + (sign > 0 ? LOG_2PI : -LOG_PI_2);
  double s = (a / r) * (a / r), first = times_power_of_two((0.125 - s * (5.0 / 24)) / r, -large.exponent);
  Two<double> sum = two_sum(sign * whole.hi, -0.5 * half.hi);
  return sum.hi + (sum.lo + (sign * (whole.lo + first) - 0.5 * half.lo));
}

// Near the axis x = 0, I_v and K_v are powers of x: v log 2^400 away from x 2^400, whose square still counts for nothing.
SKYSOLVE_INLINE double log_of_lift(double v, double sign) { return sign * v * (400 * 0.69314718055994531); }

SKYSOLVE_INLINE double log_i_any(double v, double x, double scaled) {
  double square = madd(v, v, x * x);
  if (square < 64.0) return x <= 1.0 ? log_i_small(v, x, scaled) : log_i_near<23>(v, x, scaled);
  if (square < 144.0) return log_i_8(v, x, scaled);
  if (square < 576.0) return log_i_12(v, x, scaled);
  return square < 4096.0 ? log_i_far<16>(v, x, scaled) : square < 2250000.0 ? log_i_far<9, 1>(v, x, scaled) : log_i_far<4>(v, x, scaled);
}
SKYSOLVE_INLINE double log_i_remote(double v, double x, double scaled) {
  if (!(v >= 0 && x >= 0) || (v == infinite() && x == infinite())) return not_a_number();
  if (v == infinite()) return -infinite();
  if (x == infinite()) return scaled ? -infinite() : infinite();
  if (x == 0) return v == 0 ? 0.0 : -infinite();
  if (x > HUGE_ARGUMENT || v > HUGE_ARGUMENT) return remote_far(v, x, scaled, 1.0);
  return (v == 0 ? 0.0 : log_i_any(v, x * 0x1p400, 0.0) + log_of_lift(v, -1.0)) - scaled * x;
}
SKYSOLVE_INLINE double log_k_any(double v, double x, double scaled) {
  double square = madd(v, v, x * x);
  if (square >= 2250000.0) return log_k_far<4>(v, x, scaled);
  if (square >= 4096.0) return log_k_far<9, 1>(v, x, scaled);
  if (square >= 576.0) return log_k_far<16>(v, x, scaled);
  if (square >= 144.0) return log_k_12(v, x, scaled);
  if (square >= 64.0) return log_k_8(v, x, scaled);
  return x <= 1.0 ? log_k_small(v, x, scaled) : x <= 2.5 ? log_k_1(v, x, scaled) : log_k_5_2(v, x, scaled);
}
SKYSOLVE_INLINE double log_k_remote(double v, double x, double scaled) {
  v = v < 0 ? -v : v;
  if (!(v >= 0 && x >= 0) || (v == infinite() && x == infinite())) return not_a_number();
  if (x == 0 || v == infinite()) return infinite();
  if (x == infinite()) return -infinite();
  if (x > HUGE_ARGUMENT || v > HUGE_ARGUMENT) return remote_far(v, x, scaled, -1.0);
  if (x >= TINY_ARGUMENT) return log_k_any(v, x, scaled);  // a negative order brought it here
  if (v >= 0.5) return log_k_any(v, x * 0x1p400, 0.0) + log_of_lift(v, 1.0);
  Two<double> l = -(log_two(0.5 * (x * 0x1p400)) + (-400.0) * Two<double>{LOG_2, LOG_2_LOW});
  OrderPair<Two<double>> k = k_small_two(v, fast_two_sum(l.hi, l.lo), as_two(0.0));
  Two<double> whole = log_two(k.k0.hi) + polynomial(LOG_REFLECTION, even(v));
  return whole.hi + (whole.lo + k.k0.lo / k.k0.hi);
}

// ---- which regime, as a number ----------------------------------------------------------------------------------------
template <class R, class M> SKYSOLVE_INLINE R counted(M yes) { return select(yes, constant<R>(1.0), R{}); }
// How many of r = 12, 24, 64, 220, 1500 are passed.
template <class R> SKYSOLVE_INLINE R radius_class(R square) {
  return counted<R>(square >= 144.0) + counted<R>(square >= 576.0) + counted<R>(square >= 4096.0) + counted<R>(square >= 48400.0) +
         counted<R>(square >= 2250000.0);
}
template <class R> SKYSOLVE_INLINE R unless_remote(R v, R x, R regime) {  // comparisons with nan are false
  return select((v >= 0.0) & (v <= HUGE_ARGUMENT) & (x >= TINY_ARGUMENT) & (x <= HUGE_ARGUMENT), regime, R{});
}
// Values have regimes of their own for special orders, from I_ZERO and K_ZERO on; derivatives in v have not.
enum { REMOTE, I_SMALL, I_1, I_8, I_12, I_24, I_64, I_220, I_1500, I_ZERO, I_REGIMES };
template <bool VALUES = false, class R> SKYSOLVE_INLINE R regime_i(R v, R x) {
  R square = madd(v, v, x * x), regime = select(square >= 64.0, 3.0 + radius_class(square), 1.0 + counted<R>(x > 1.0));
  if (VALUES) regime = select(v == 0.0, constant<R>(I_ZERO), regime);
  return unless_remote(v, x, regime);
}
enum { K_SMALL = 1, K_1, K_5_2, K_8, K_12, K_24, K_64, K_220, K_1500, K_ZERO, K_HALF, K_LOW, K_REGIMES };
template <bool VALUES = false, class R> SKYSOLVE_INLINE R regime_k(R v, R x) {
  R square = madd(v, v, x * x), near = 1.0 + counted<R>(x > 1.0) + counted<R>(x > 2.5);
  if (VALUES) near = select((v < 0.5) & (x <= 1.0), constant<R>(K_LOW), near);
  R regime = select(square >= 64.0, 4.0 + radius_class(square), near);
  if (VALUES) regime = select(v == 0.0, constant<R>(K_ZERO), select((v == 0.5) | (v == 1.5), constant<R>(K_HALF), regime));
  return unless_remote(v, x, regime);
}

}  // namespace SKYSOLVE_NAMESPACE
