// Arguments sorted by regime, so that packs run without branches; compiled once for each instruction set.
#include "kernels.h"
#include "pack.h"

#include "../cuda/bessel_ratio.cuh"
#include "../cuda/log_bessel.cuh"
#include "../cuda/log_bessel_derivatives.cuh"

namespace SKYSOLVE_NAMESPACE {
namespace {

using skysolve_cpu::CHUNK;
using skysolve_cpu::MOST_OUTPUTS;
using Loop = void (*)(const double* v, const double* x, double* const* out, long packs, double scaled);

template <Pack (*F)(Pack, Pack, double)>
void each_pack(const double* v, const double* x, double* const* out, long packs, double scaled) {
  for (long i = 0; i < packs * LANES; i += LANES) store(out[0] + i, F(load(v + i), load(x + i), scaled));
}
template <Jet<Pack> (*F)(Pack, Pack, double)>
void each_jet(const double* v, const double* x, double* const* out, long packs, double scaled) {
  for (long i = 0; i < packs * LANES; i += LANES) {
    Jet<Pack> d = F(load(v + i), load(x + i), scaled);
    store(out[0] + i, d.v), store(out[1] + i, d.x), store(out[2] + i, d.vv), store(out[3] + i, d.vx), store(out[4] + i, d.xx);
  }
}
template <Jet<double> (*F)(double, double, double)>
void each_jet_of_doubles(const double* v, const double* x, double* const* out, long packs, double scaled) {
  for (long i = 0; i < packs * LANES; i++) {
    Jet<double> d = F(v[i], x[i], scaled);
    out[0][i] = d.v, out[1][i] = d.x, out[2][i] = d.vv, out[3][i] = d.vx, out[4][i] = d.xx;
  }
}
template <double (*F)(double, double, double)>
void each_double(const double* v, const double* x, double* const* out, long packs, double scaled) {
  for (long i = 0; i < packs * LANES; i++) out[0][i] = F(v[i], x[i], scaled);
}

struct Values {
  static constexpr int outputs = 1;
};
struct LogI : Values {
  static Pack regime(Pack v, Pack x) { return regime_i(v, x); }
  static constexpr Loop loops[I_REGIMES] = {
      each_double<log_i_remote>,     each_pack<log_i_near<11, Pack>>, each_pack<log_i_near<23, Pack>>,
      each_pack<log_i_8<Pack>>,      each_pack<log_i_12<Pack>>,       each_pack<log_i_far<16, Pack>>,
      each_pack<log_i_far<9, Pack>>, each_pack<log_i_far<6, Pack>>,   each_pack<log_i_far<4, Pack>>};
};
struct LogK : Values {
  static Pack regime(Pack v, Pack x) { return regime_k(v, x); }
  static constexpr Loop loops[K_REGIMES] = {each_double<log_k_remote>,     each_pack<log_k_small<Pack>>,   each_pack<log_k_1<Pack>>,
                                            each_pack<log_k_5_2<Pack>>,    each_pack<log_k_8<Pack>>,       each_pack<log_k_12<Pack>>,
                                            each_pack<log_k_far<16, Pack>>, each_pack<log_k_far<9, Pack>>, each_pack<log_k_far<6, Pack>>,
                                            each_pack<log_k_far<4, Pack>>};
};
struct FiveDerivatives {
  static constexpr int outputs = 5;
};
struct DerivativesI : FiveDerivatives {
  static Pack regime(Pack v, Pack x) { return regime_i(v, x); }
  static constexpr Loop far = each_jet<derivatives_i_far<Pack>>;
  static constexpr Loop loops[I_REGIMES] = {each_jet_of_doubles<derivatives_i_remote>, each_jet<derivatives_i_near<11, Pack>>,
                                            each_jet<derivatives_i_near<23, Pack>>,
                                            each_jet<derivatives_i_8<Pack>>, each_jet<derivatives_i_12<Pack>>, far, far, far, far};
};
struct DerivativesK : FiveDerivatives {
  static Pack regime(Pack v, Pack x) { return regime_k(v, x); }
  static constexpr Loop far = each_jet<derivatives_k_far<Pack>>;
  static constexpr Loop loops[K_REGIMES] = {each_jet_of_doubles<derivatives_k_remote>, each_jet<derivatives_k_small<Pack>>,
                                            each_jet<derivatives_k_1<Pack>>, each_jet<derivatives_k_5_2<Pack>>,
                                            each_jet<derivatives_k_8<Pack>>, each_jet<derivatives_k_12<Pack>>, far, far, far, far};
};

void store_codes(unsigned char* code, Pack regime) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  _mm_storel_epi64((__m128i*)code, _mm512_cvtepi64_epi8((__m512i)bits_of(regime + 4503599627370496.0)));
#else
  for (int j = 0; j < LANES; j++) code[j] = (unsigned char)regime[j];
#endif
}

// Sorts a chunk by regime, runs each loop on what is its own, and puts the results back.
template <class Family>
void by_regime(const double* v, const double* x, double* const* out, long n, double scaled) {
  constexpr int REGIMES = sizeof(Family::loops) / sizeof(Loop), ROOM = CHUNK + REGIMES * LANES;
  alignas(64) double a[ROOM], b[ROOM], results[Family::outputs][ROOM];
  unsigned char code[CHUNK + LANES];
  Pack first_regime = Family::regime(constant<Pack>(v[0]), constant<Pack>(x[0])), others = Pack{};
  for (long i = 0; i < n; i += LANES) {
    Pack at_v = constant<Pack>(v[0]), at_x = constant<Pack>(x[0]);
    if (i + LANES <= n) {
      at_v = load(v + i), at_x = load(x + i);
    } else {
      for (long j = i; j < n; j++) at_v[j - i] = v[j], at_x[j - i] = x[j];
    }
    Pack regime = Family::regime(at_v, at_x), difference = regime - first_regime;
    others = madd(difference, difference, others);
    store_codes(code + i, regime);
  }
  if (n % LANES == 0 && largest(others) == 0.0) return Family::loops[code[0]](v, x, out, n / LANES, scaled);
  // Four quarters count for themselves: one counter would wait for its own last increment.
  constexpr int QUARTERS = 4;
  long quarter = n / QUARTERS, count[QUARTERS][REGIMES] = {}, next[QUARTERS][REGIMES], first[REGIMES], packs[REGIMES], start = 0;
  for (long j = 0; j < quarter; j++)
    for (int k = 0; k < QUARTERS; k++) count[k][code[k * quarter + j]]++;
  for (long j = QUARTERS * quarter; j < n; j++) count[QUARTERS - 1][code[j]]++;
  for (int k = 0; k < REGIMES; k++) {
    first[k] = start;
    for (int part = 0; part < QUARTERS; part++) {
      next[part][k] = start;
      start += count[part][k];
    }
    packs[k] = (start - first[k] + LANES - 1) / LANES;
    start = first[k] + packs[k] * LANES;
  }
  unsigned short place[CHUNK];
  auto move = [&](int part, long j) {
    long p = next[part][code[j]]++;
    place[j] = (unsigned short)p;
    a[p] = v[j];
    b[p] = x[j];
  };
  for (long j = 0; j < quarter; j++)
    for (int k = 0; k < QUARTERS; k++) move(k, k * quarter + j);
  for (long j = QUARTERS * quarter; j < n; j++) move(QUARTERS - 1, j);
  double* columns[MOST_OUTPUTS];
  for (int k = 0; k < REGIMES; k++) {
    if (packs[k] == 0) continue;
    for (long p = next[QUARTERS - 1][k]; p < first[k] + packs[k] * LANES; p++) a[p] = a[first[k]], b[p] = b[first[k]];
    for (int o = 0; o < Family::outputs; o++) columns[o] = results[o] + first[k];
    Family::loops[k](a + first[k], b + first[k], columns, packs[k], scaled);
  }
  for (int o = 0; o < Family::outputs; o++)
    for (long j = 0; j < n; j++) out[o][j] = results[o][place[j]];
}

// Kernels without regimes; the last pack is filled up with harmless arguments.
template <class Body>
void in_packs(const double* v, const double* x, long n, Body body) {
  for (long i = 0; i < n; i += LANES) {
    Pack a = constant<Pack>(1.0), b = constant<Pack>(0.5);
    if (i + LANES <= n) {
      a = load(v + i), b = load(x + i);
    } else {
      for (long j = i; j < n; j++) a[j - i] = v[j], b[j - i] = x[j];
    }
    body(a, b, i, n - i < LANES ? n - i : LANES);
  }
}
void put(double* out, long at, long lanes, Pack value) { __builtin_memcpy(out + at, &value, 8 * lanes); }

// Arguments whose squares leave the range of a double are brought into it: the ratio there depends on x/v alone, or is 1.
void ratio_to_lower_order_loop(const double* v, const double* x, double* const* out, long n, double) {
  in_packs(v, x, n, [&](Pack a, Pack b, long at, long lanes) {
    Pack usual = within(a, 0.0, 0x1p500) * within(b, 0x1p-500, 0x1p500);
    Pack value = ratio_to_lower_order(select(usual > 0.5, a, constant<Pack>(1.0)), select(usual > 0.5, b, constant<Pack>(1.0)));
    for (int j = 0; j < LANES; j++)
      if (usual[j] < 0.5) value[j] = remote_ratio(a[j], b[j]);
    put(out[0], at, lanes, value);
  });
}
void ratio_loop(const double* v, const double* x, double* const* out, long n, double) {
  in_packs(v, x, n, [&](Pack a, Pack b, long at, long lanes) {
    Ratio<Pack> value = any_ratio(a, b);
    put(out[0], at, lanes, value.a);
    put(out[1], at, lanes, value.complement);
  });
}
void ratio_inverse_loop(const double* v, const double* a, double* const* out, long n, double) {
  in_packs(v, a, n, [&](Pack order, Pack mean, long at, long lanes) { put(out[0], at, lanes, any_ratio_inverse(order, mean)); });
}

}  // namespace

extern const skysolve_cpu::Kernels kernels;
const skysolve_cpu::Kernels kernels = {by_regime<LogI>, by_regime<LogK>,  by_regime<DerivativesI>, by_regime<DerivativesK>,
                                       ratio_to_lower_order_loop, ratio_loop, ratio_inverse_loop};

}  // namespace SKYSOLVE_NAMESPACE
