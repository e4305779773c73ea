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
  static constexpr int first_special = I_ZERO;
  static Pack regime(Pack v, Pack x) { return regime_i<true>(v, x); }
  template <int TERMS> static constexpr Loop far = each_pack<log_i_far<TERMS, Steps<TERMS>::value, Pack>>;
  static constexpr Loop loops[I_REGIMES] = {
      each_double<log_i_remote>, each_pack<log_i_small<Pack>>, each_pack<log_i_near<23, Pack>>, each_pack<log_i_8<Pack>>,
      each_pack<log_i_12<Pack>>, far<16>, far<9>, far<6>, far<4>, each_pack<log_i_zero<Pack>>};
};
struct LogK : Values {
  static constexpr int first_special = K_ZERO;
  static Pack regime(Pack v, Pack x) { return regime_k<true>(v, x); }
  template <int TERMS> static constexpr Loop far = each_pack<log_k_far<TERMS, Steps<TERMS>::value, Pack>>;
  static constexpr Loop loops[K_REGIMES] = {
      each_double<log_k_remote>, each_pack<log_k_small<Pack>>, each_pack<log_k_1<Pack>>, each_pack<log_k_5_2<Pack>>,
      each_pack<log_k_8<Pack>>,  each_pack<log_k_12<Pack>>,    far<16>, far<9>, far<6>, far<4>,
      each_pack<log_k_zero<Pack>>, each_pack<log_k_half<Pack>>, each_pack<log_k_low<Pack>>};
};
struct FiveDerivatives {
  static constexpr int outputs = 5, first_special = K_REGIMES;  // none
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
  const double lifted = 4503599627370496.0;  // 2^52: the number is in the lowest bits
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  _mm_storel_epi64((__m128i*)code, _mm512_cvtepi64_epi8((__m512i)bits_of(regime + lifted)));
#elif defined(__AVX2__) && defined(__FMA__)
  IntegerPack bits = bits_of(regime + lifted);
  __m256i words = (__m256i)_mm256_shuffle_ps((__m256)bits.a, (__m256)bits.b, 0x88);  // a0 a1 b0 b1 a2 a3 b2 b3
  __m256i bytes = _mm256_shuffle_epi8(words, _mm256_set1_epi32(0x0c080400));
  __m128i pairs = _mm_unpacklo_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64((__m128i*)code, pairs);
#else
  for (int j = 0; j < LANES; j++) code[j] = (unsigned char)regime[j];
#endif
}
// A whole pack, or what is left of one filled up with `filling`
Pack load_some(const double* a, long left, double filling) {
  if (left >= LANES) return load(a);
  double some[LANES];
  for (int j = 0; j < LANES; j++) some[j] = j < left ? a[j] : filling;
  return load(some);
}

// Runs each loop on what is of its regime. A chunk of one regime is left where it is; one that is so for all but a few has the
// loop of the many run over all of it, and the few put right; any other is sorted.
template <class Family> struct Chunk {
  static constexpr int REGIMES = sizeof(Family::loops) / sizeof(Loop), QUARTERS = 4;
  static constexpr long ROOM = CHUNK + REGIMES * LANES;
  alignas(64) double a[ROOM], b[ROOM], results[Family::outputs][ROOM];
  unsigned char code[CHUNK + LANES];
  unsigned short place[CHUNK];  // sorted: where each argument went; few: where each came from
  long first[REGIMES], end[REGIMES];

  bool find_regimes(const double* v, const double* x, long n) {  // true if there is one only
    Pack first_regime = Family::regime(constant<Pack>(v[0]), constant<Pack>(x[0])), others = Pack{};
    for (long i = 0; i < n; i += LANES) {
      Pack regime = Family::regime(load_some(v + i, n - i, v[0]), load_some(x + i, n - i, x[0])), difference = regime - first_regime;
      others = madd(difference, difference, others);
      store_codes(code + i, regime);
    }
    return largest(others) == 0.0;
  }
  // Room for `count` arguments of each regime, filled up to whole packs
  void lay_out(const long* count) {
    long start = 0;
    for (int k = 0; k < REGIMES; k++) {
      first[k] = start;
      end[k] = start + count[k];
      start += (count[k] + LANES - 1) / LANES * LANES;
    }
  }
  void run(double scaled) {
    double* columns[MOST_OUTPUTS];
    for (int k = 0; k < REGIMES; k++) {
      long packs = (end[k] - first[k] + LANES - 1) / LANES;
      if (packs == 0) continue;
      for (long p = end[k]; p < first[k] + packs * LANES; p++) a[p] = a[first[k]], b[p] = b[first[k]];
      for (int o = 0; o < Family::outputs; o++) columns[o] = results[o] + first[k];
      Family::loops[k](a + first[k], b + first[k], columns, packs, scaled);
    }
  }
  void sort_and_run(const double* v, const double* x, double* const* out, long n, const long (*count)[REGIMES], double scaled) {
    long total[REGIMES] = {}, next[QUARTERS][REGIMES], quarter = n / QUARTERS;
    for (int k = 0; k < REGIMES; k++)
      for (int part = 0; part < QUARTERS; part++) total[k] += count[part][k];
    lay_out(total);
    for (int k = 0; k < REGIMES; k++)
      for (int part = 0, at = first[k]; part < QUARTERS; at += count[part++][k]) next[part][k] = at;
    auto move = [&](int part, long j) {
      long p = next[part][code[j]]++;
      place[j] = (unsigned short)p;
      a[p] = v[j];
      b[p] = x[j];
    };
    for (long j = 0; j < quarter; j++)
      for (int part = 0; part < QUARTERS; part++) move(part, part * quarter + j);
    for (long j = QUARTERS * quarter; j < n; j++) move(QUARTERS - 1, j);
    run(scaled);
    for (int o = 0; o < Family::outputs; o++)
      for (long j = 0; j < n; j++) out[o][j] = results[o][place[j]];
  }
  // All but the few are of regime `most`; what does not fill a pack counts among the few.
  void put_few_right(const double* v, const double* x, double* const* out, long n, int most, const long* count, double scaled) {
    long whole = n / LANES * LANES, few[REGIMES], next[REGIMES];
    for (int k = 0; k < REGIMES; k++) few[k] = k == most ? 0 : count[k];
    for (long j = whole; j < n; j++) few[most] += code[j] == most;
    lay_out(few);
    for (int k = 0; k < REGIMES; k++) next[k] = first[k];
    auto set_aside = [&](long j) {
      long p = next[code[j]]++;
      place[p] = (unsigned short)j;
      a[p] = v[j];
      b[p] = x[j];
    };
    for (long i = 0; i < whole; i += 8) {  // a pack has eight lanes at most, and all eight are looked at together
      unsigned long long eight;
      __builtin_memcpy(&eight, code + i, 8);
      if (eight != most * 0x0101010101010101ULL)
        for (long j = i; j < i + 8 && j < whole; j++)
          if (code[j] != most) set_aside(j);
    }
    for (long j = whole; j < n; j++) set_aside(j);
    Family::loops[most](v, x, out, whole / LANES, scaled);  // may write over v or x, which are no longer needed
    run(scaled);
    for (int k = 0; k < REGIMES; k++)
      for (long p = first[k]; p < end[k]; p++)
        for (int o = 0; o < Family::outputs; o++) out[o][place[p]] = results[o][p];
  }
};

// One order, one of the few with a regime of their own, at ordinary arguments: seen at half the price of asking for each regime.
template <class Family> bool has_one_special_order(const double* v, const double* x, long n) {
  if (!(v[0] == 0.0 || v[0] == 0.5 || v[0] == 1.5) || n % LANES != 0) return false;
  Pack usual = constant<Pack>(1.0);
  for (long i = 0; i < n; i += LANES) {
    Pack at_v = load(v + i), at_x = load(x + i);
    usual = select((at_v == v[0]) & (at_x >= TINY_ARGUMENT) & (at_x <= HUGE_ARGUMENT), usual, Pack{});
  }
  Pack regime = Family::regime(constant<Pack>(v[0]), constant<Pack>(1.0));
  return largest(-usual) < 0.0 && largest(regime) >= Family::first_special;
}

template <class Family>
void by_regime(const double* v, const double* x, double* const* out, long n, double scaled) {
  using Work = Chunk<Family>;
  Work work;
  if (has_one_special_order<Family>(v, x, n)) {
    int regime = (int)largest(Family::regime(constant<Pack>(v[0]), constant<Pack>(1.0)));
    return Family::loops[regime](v, x, out, n / LANES, scaled);
  }
  if (work.find_regimes(v, x, n) && n % LANES == 0) return Family::loops[work.code[0]](v, x, out, n / LANES, scaled);
  // Four quarters count for themselves: one counter would wait for its own last increment.
  long quarter = n / Work::QUARTERS, count[Work::QUARTERS][Work::REGIMES] = {}, total[Work::REGIMES] = {};
  for (long j = 0; j < quarter; j++)
    for (int part = 0; part < Work::QUARTERS; part++) count[part][work.code[part * quarter + j]]++;
  for (long j = Work::QUARTERS * quarter; j < n; j++) count[Work::QUARTERS - 1][work.code[j]]++;
  for (int k = 0; k < Work::REGIMES; k++)
    for (int part = 0; part < Work::QUARTERS; part++) total[k] += count[part][k];
  for (int k = REMOTE + 1; k < Work::REGIMES; k++)  // remote arguments take no packs
    if (n >= 64 && 8 * total[k] >= 7 * n) return work.put_few_right(v, x, out, n, k, total, scaled);
  work.sort_and_run(v, x, out, n, count, scaled);
}

// Kernels without regimes; the last pack is filled up with harmless arguments.
template <class Body>
void in_packs(const double* v, const double* x, long n, Body body) {
  for (long i = 0; i < n; i += LANES) {
    body(load_some(v + i, n - i, 1.0), load_some(x + i, n - i, 0.5), i, n - i < LANES ? n - i : LANES);
  }
}
void put(double* out, long at, long lanes, Pack value) { __builtin_memcpy(out + at, &value, 8 * lanes); }

// Arguments whose squares leave the range of a double are brought into it: the ratio there depends on x/v alone, or is 1.
void ratio_to_lower_order_loop(const double* v, const double* x, double* const* out, long n, double) {
  in_packs(v, x, n, [&](Pack a, Pack b, long at, long lanes) {
    Pack usual = within(a, 0.0, 0x1p500) * within(b, 0x1p-500, 0x1p500);
    Pack value = ratio_to_lower_order(select(usual > 0.5, a, constant<Pack>(1.0)), select(usual > 0.5, b, constant<Pack>(1.0)));
    put(out[0], at, lanes, value);
    double is_usual[LANES], order[LANES], argument[LANES];
    store(is_usual, usual), store(order, a), store(argument, b);
    for (long j = 0; j < lanes; j++)
      if (is_usual[j] < 0.5) out[0][at + j] = remote_ratio(order[j], argument[j]);
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
