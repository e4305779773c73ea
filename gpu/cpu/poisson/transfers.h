// Restriction, which is the transpose of prolongation, and prolongation, row by row.
#pragma once
#include "smoothing.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

// Six sums of the children's residuals for each coarse cell, by side: x low, x high, y low, ...; a ring of coarse planes.
struct Sums {
  float* at;
  int ring;  // planes that are kept
  long rows;
  int width;
  float* row(int I, int J, int which) const { return at + ((long(I % ring) * 6 + which) * rows + J) * width + 1; }
};
int ring_of(const Level& coarse) { return coarse.periodic[0] ? coarse.n[0] : 4; }
Sums sums_of(const Grid& fine, const Grid& coarse) {
  Sums s;
  s.at = fine.sums.get(), s.ring = ring_of(coarse.level), s.rows = coarse.level.n[1], s.width = 2 * coarse.level.half + 2;
  return s;
}
long sums_size(const Grid& coarse) { return 6L * ring_of(coarse.level) * coarse.level.n[1] * (2 * coarse.level.half + 2); }

template <class Faces> void gather_row(const Grid& fine, const Grid& coarse, int i, int j, bool both, float* scratch) {
  const Level& l = fine.level;
  const Sums s = sums_of(fine, coarse);
  const int I = l.coarsens[0] ? i >> 1 : i, J = l.coarsens[1] ? j >> 1 : j;
  const int si = l.coarsens[0] ? i & 1 : 0, sj = l.coarsens[1] ? j & 1 : 0;
  if (si == 0 && sj == 0)
    for (int which = 0; which < 6; ++which) std::memset(s.row(I, J, which) - 1, 0, s.width * sizeof(float));
  float *__restrict X = s.row(I, J, si), *__restrict Y = s.row(I, J, 2 + sj);
  const int red = parity(i, j, 0);
  for (int p = 0; p < 2; ++p) {
    if (!both && p != red) continue;
    if (p) residual_run<Faces, 1>(l, row_start(l, i, j), scratch);
    else residual_run<Faces, 0>(l, row_start(l, i, j), scratch);
    if (l.coarsens[2]) {
      float* __restrict Z = s.row(I, J, 4 + p);
      for (int K = 0; K < l.half; ++K) X[K] += scratch[K], Y[K] += scratch[K], Z[K] += scratch[K];
    } else {
      float* __restrict Z = s.row(I, J, 4);
      for (int K = 0; 2 * K + p < l.n[2]; ++K) X[2 * K + p] += scratch[K], Y[2 * K + p] += scratch[K], Z[2 * K + p] += scratch[K];
    }
  }
}

void restrict_row(const Grid& fine, const Grid& coarse, int I, int J) {
  const Level &l = fine.level, &c = coarse.level;
  const Sums s = sums_of(fine, coarse);
  const long start = row_start(c, I, J);
  const bool cx = l.coarsens[0], cy = l.coarsens[1], cz = l.coarsens[2];
  const int N = c.n[0], M = c.n[1], last = c.n[2] - 1;
  const bool wx = c.periodic[0], wy = c.periodic[1], wz = c.periodic[2];
  const float *xl = s.row(I, J, 0), *xh = s.row(I, J, 1), *yl = s.row(I, J, 2), *yh = s.row(I, J, 3);
  float *zl = s.row(I, J, 4), *zh = s.row(I, J, 5);
  const int lowJ = J > 0 ? J - 1 : (wy ? M - 1 : -1), highJ = J < M - 1 ? J + 1 : (wy ? 0 : -1);
  const float* yh_low = lowJ >= 0 ? s.row(I, lowJ, 3) : nullptr;
  const float* yl_high = highJ >= 0 ? s.row(I, highJ, 2) : nullptr;
  const int lowI = I > 0 ? I - 1 : (wx ? N - 1 : -1), highI = I < N - 1 ? I + 1 : (wx ? 0 : -1);
  const float* xh_low = lowI >= 0 ? s.row(lowI, J, 1) : nullptr;
  const float* xl_high = highI >= 0 ? s.row(highI, J, 0) : nullptr;
  zl[-1] = zh[-1] = zl[last + 1] = zh[last + 1] = 0.0f;
  if (cz && wz) zh[-1] = zh[last], zl[last + 1] = zl[0];
  for (int q = 0; q < 2; ++q)
    for (int m = 0; 2 * m + q <= last; ++m) {
      const int K = 2 * m + q;
      const long at = start + q * c.pitch + m;
      float sum = xl[K] + xh[K];
      if (cx) {
        const float low = c.tie_x[at - c.plane], high = c.tie_x[at];
        sum += low * ((xh_low ? xh_low[K] : 0.0f) - xl[K]) + high * ((xl_high ? xl_high[K] : 0.0f) - xh[K]);
      }
      if (cy) {
        const float low = c.tie_y[at - c.row], high = c.tie_y[at];
        sum += low * ((yh_low ? yh_low[K] : 0.0f) - yl[K]) + high * ((yl_high ? yl_high[K] : 0.0f) - yh[K]);
      }
      if (cz) {
        const float low = c.tie_z[below(c.pitch, q, at)], high = c.tie_z[at];
        sum += low * (zh[K - 1] - zl[K]) + high * (zl[K + 1] - zh[K]);
      }
      c.b[at] = c.diagonal[at] > 0.0f ? sum : 0.0f;
    }
}

// ---- prolongation -----------------------------------------------------------------------------------------------------
// A fine cell takes its coarse cell's value and, along each halved axis, `tie` of the step towards the neighbour on its side:
// linear functions exactly, with tie = 1/4.
template <bool PLAIN_FACES> void prolong_row(const Grid& fine, const Grid& coarse, int i, int j, bool both, float* scratch) {
  const Level &l = fine.level, &c = coarse.level;
  const int I = l.coarsens[0] ? i >> 1 : i, J = l.coarsens[1] ? j >> 1 : j;
  const long start = row_start(c, I, J), target = row_start(l, i, j);
  const bool cx = l.coarsens[0], cy = l.coarsens[1], cz = l.coarsens[2];
  const long ax = i & 1 ? c.plane : -c.plane, ay = j & 1 ? c.row : -c.row;
  const long fx = i & 1 ? 0 : -c.plane, fy = j & 1 ? 0 : -c.row;
  const float* __restrict e = c.x;
  const int red = parity(i, j, 0), H = c.pitch;
  for (int p = 0; p < 2; ++p) {
    if (!both && p != red) continue;
    float* __restrict out = scratch;
    for (int q = 0; q < 2; ++q) {
#pragma GCC ivdep
      for (int m = 0; m < c.half; ++m) {
        const long at = start + q * H + m;
        float value = e[at];
        if (cx) value += c.tie_x[at + fx] * (e[at + ax] - e[at]);
        if (cy) value += c.tie_y[at + fy] * (e[at + ay] - e[at]);
        if (cz) {
          const long low = below(H, q, at);
          value += p ? c.tie_z[at] * (e[above(H, q, at)] - e[at]) : c.tie_z[low] * (e[low] - e[at]);
        }
        out[2 * m + q] = value;
      }
    }
    float* __restrict x = l.x + target + p * l.pitch;
    const Code* __restrict code = PLAIN_FACES ? l.code + target + p * l.pitch : nullptr;
    const float* __restrict d = PLAIN_FACES ? nullptr : l.diagonal + target + p * l.pitch;
    if (cz)
      for (int K = 0; K < l.half; ++K) x[K] += (PLAIN_FACES ? code[K] != 0 : d[K] > 0.0f) ? out[K] : 0.0f;
    else
      for (int K = 0; K < l.half; ++K) x[K] += (PLAIN_FACES ? code[K] != 0 : d[K] > 0.0f) ? out[2 * K + p] : 0.0f;
  }
}

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
