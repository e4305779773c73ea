// Coarser operators: from flags or from stored faces, level after level.
#pragma once
#include <cmath>

#include "bottom.h"
#include "learned_coarsening.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

constexpr double MOST_SEPARATED = 0.2;

// What the next level is made of, from flags or from stored faces.
struct FlagSource {
  const uint8_t* cells;  // with a halo of flags
  int n[3];
  double weight[3];
  long stride[3];
  long at(int i, int j, int k) const { return (i + 1) * stride[0] + (j + 1) * stride[1] + (k + 1); }
  bool fluid(int i, int j, int k) const { return cells[at(i, j, k)] == FLUID; }
  float face(int a, int i, int j, int k) const {  // on the upper side
    const long c = at(i, j, k);
    return cells[c] == FLUID && cells[c + stride[a]] == FLUID ? float(weight[a]) : 0.0f;
  }
  float excess(int which, int i, int j, int k) const {
    const long c = at(i, j, k), other = c + (which & 1 ? stride[which / 2] : -stride[which / 2]);
    return cells[c] == FLUID && cells[other] == AIR ? float(weight[which / 2]) : 0.0f;
  }
};
struct GridSource {
  const Grid& g;
  bool fluid(int i, int j, int k) const { return g.level.diagonal[g.at(i, j, k)] > 0.0f; }
  float face(int a, int i, int j, int k) const { return g.face[a].get()[g.at(i, j, k)]; }
  float excess(int which, int i, int j, int k) const { return g.excess[which].get()[g.at(i, j, k)]; }
};

void finish_faces(Grid& g) {  // halo of faces, and the diagonal
  for (auto& f : g.face) wrap(g, f.get());
  const Level& l = g.level;
  for (int i = 0; i < l.n[0]; ++i)
    for (int j = 0; j < l.n[1]; ++j) {
      const long start = row_start(l, i, j);
      for (int p = 0; p < 2; ++p)
        for (int K = 0; K < l.half; ++K) {
          const long c = start + p * l.pitch + K, down = below(l.pitch, p, c);
          float sum = l.face_x[c] + l.face_x[c - l.plane] + l.face_y[c] + l.face_y[c - l.row] + l.face_z[c] + l.face_z[down];
          for (const auto& e : g.excess) sum += e.get()[c];
          if (2 * K + p < l.n[2]) g.diagonal.get()[c] = sum;
        }
    }
}

// width[a]: fine cells of the finest level along an edge of the *fine* cells; a Dirichlet value lies half a finest cell behind the wall.
template <class Source> void coarsen(const Source& from, const Grid& fine, Grid& coarse, const double width[3], const Settings& s) {
  const Level &l = fine.level, &c = coarse.level;
  int count[3];
  float share[3], held[3];
  for (int a = 0; a < 3; ++a) {
    count[a] = l.coarsens[a] ? 2 : 1;
    share[a] = l.coarsens[a] ? 0.5f * s.stiffness : 1.0f;
    held[a] = l.coarsens[a] ? float((width[a] + 1) / (2 * width[a] + 1)) : 1.0f;
  }
  float* tie[3] = {coarse.tie[0].get(), coarse.tie[1].get(), coarse.tie[2].get()};
  for (int I = 0; I < c.n[0]; ++I)
    for (int J = 0; J < c.n[1]; ++J)
      for (int K = 0; K < c.n[2]; ++K) {
        const long at = coarse.at(I, J, K);
        float face[3] = {0, 0, 0}, excess[6] = {0, 0, 0, 0, 0, 0};
        for (int di = 0; di < count[0]; ++di)
          for (int dj = 0; dj < count[1]; ++dj)
            for (int dk = 0; dk < count[2]; ++dk) {
              const int i = count[0] * I + di, j = count[1] * J + dj, k = count[2] * K + dk;
              if (i >= l.n[0] || j >= l.n[1] || k >= l.n[2] || !from.fluid(i, j, k)) continue;
              const int d[3] = {di, dj, dk}, cell[3] = {i, j, k};
              for (int a = 0; a < 3; ++a) {
                const bool outermost = d[a] == count[a] - 1 || cell[a] == l.n[a] - 1;
                if (outermost) face[a] += from.face(a, i, j, k);
                excess[2 * a] += from.excess(2 * a, i, j, k), excess[2 * a + 1] += from.excess(2 * a + 1, i, j, k);
              }
            }
        for (int a = 0; a < 3; ++a) {
          coarse.face[a].get()[at] = share[a] * face[a];
          for (int side = 0; side < 2; ++side) coarse.excess[2 * a + side].get()[at] = held[a] * excess[2 * a + side];
        }
      }
  finish_faces(coarse);
  // ties: along open faces and towards Dirichlet values; none through walls
  const float full = 0.25f * s.tie;
  const int step[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  for (int a = 0; a < 3; ++a) {
    if (!l.coarsens[a]) continue;
    const auto inside = [&](int cell[3]) {  // wraps it where the axis is periodic
      if (c.periodic[a]) cell[a] = (cell[a] + c.n[a]) % c.n[a];
      return cell[a] >= 0 && cell[a] < c.n[a];
    };
    for (int I = -(a == 0); I < c.n[0]; ++I)
      for (int J = -(a == 1); J < c.n[1]; ++J)
        for (int K = -(a == 2); K < c.n[2]; ++K) {
          int low[3] = {I, J, K}, high[3] = {I + step[a][0], J + step[a][1], K + step[a][2]};
          const bool has_low = inside(low), has_high = inside(high);
          const long below = coarse.at(low[0], low[1], low[2]), above = coarse.at(high[0], high[1], high[2]);
          const bool below_is_air = !has_low || !(c.diagonal[below] > 0.0f), above_is_air = !has_high || !(c.diagonal[above] > 0.0f);
          const bool tied = coarse.face[a].get()[below] > 0.0f || (above_is_air && has_low && coarse.excess[2 * a + 1].get()[below] > 0.0f) ||
                            (below_is_air && has_high && coarse.excess[2 * a].get()[above] > 0.0f);
          tie[a][coarse.at(I, J, K)] = tied ? full : 0.0f;
        }
  }
}

// Which share of the pairs that halving axis a would merge lies on two sides of a wall: neighbouring channels are no one channel.
double separated(const Grid& g, int a) {
  const Level& l = g.level;
  const int step[3] = {a == 0 ? 2 : 1, a == 1 ? 2 : 1, a == 2 ? 2 : 1};
  long pairs = 0, apart = 0;
  for (int i = 0; i < l.n[0]; i += step[0])
    for (int j = 0; j < l.n[1]; j += step[1])
      for (int k = 0; k < l.n[2]; k += step[2]) {
        const int up[3] = {i + step[0] - 1, j + step[1] - 1, k + step[2] - 1};
        if (up[a] >= l.n[a]) continue;
        const long c = g.at(i, j, k);
        if (!(l.diagonal[c] > 0.0f && l.diagonal[g.at(up[0], up[1], up[2])] > 0.0f)) continue;
        ++pairs, apart += !(g.face[a].get()[c] > 0.0f);
      }
  return pairs ? double(apart) / double(pairs) : 0.0;
}

// The axes along which cells are closest, but for those that would merge what walls keep apart, as long as others are left.
void choose_axes(Grid& g, const double h[3]) {
  Level& l = g.level;
  bool open[3], any = false;
  for (int a = 0; a < 3; ++a) {
    open[a] = l.n[a] > 1 && (l.code || separated(g, a) <= MOST_SEPARATED);  // plain faces between fluid cells are open
    any = any || open[a];
  }
  double least = 1e300;
  for (int a = 0; a < 3; ++a)
    if (l.n[a] > 1 && (open[a] || !any)) least = std::fmin(least, h[a]);
  for (int a = 0; a < 3; ++a) l.coarsens[a] = l.n[a] > 1 && (open[a] || !any) && h[a] <= 1.5 * least;
}

// `learned`: null for the discretisation's own coarse levels
void build_levels(Hierarchy& made, const FlagSource* flags, const double weight[3], const CoarseningWeights* learned) {
  std::unique_ptr<Corrections> corrections;
  if (learned) corrections = std::make_unique<Corrections>(*learned, weight);
  double h[3], width[3] = {1, 1, 1};
  for (int a = 0; a < 3; ++a) h[a] = 1 / std::sqrt(weight[a]);
  while (made.grids.back().cells > BOTTOM) {
    Grid& fine = made.grids.back();
    choose_axes(fine, h);
    int n[3], periodic[3];
    for (int a = 0; a < 3; ++a) {
      n[a] = fine.level.coarsens[a] ? (fine.level.n[a] + 1) / 2 : fine.level.n[a];
      periodic[a] = fine.level.periodic[a];
    }
    Grid coarse;
    coarse.shape(n, periodic, made.settings.over_coarse);
    coarse.store_faces();
    coarse.make_ties();
    if (made.grids.size() == 1 && flags) {
      coarsen(*flags, fine, coarse, width, made.settings);
      if (learned) corrections->correct(*flags, fine, coarse);
    } else {
      coarsen(GridSource{fine}, fine, coarse, width, made.settings);
      if (learned) corrections->correct(GridSource{fine}, fine, coarse);
    }
    if (learned) finish_faces(coarse);
    for (auto& e : fine.excess) e = Array<float>();
    fine.sums = Array<float>(sums_size(coarse));
    for (int a = 0; a < 3; ++a)
      if (fine.level.coarsens[a]) h[a] *= 2, width[a] *= 2;
    made.grids.push_back(std::move(coarse));
  }
  made.make_bottom();
}

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
