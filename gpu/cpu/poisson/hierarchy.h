// The V-cycle: stages that follow each other through the planes, level by level.
#pragma once
#include <omp.h>

#include <functional>
#include <vector>

#include "transfers.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

using Stage = std::function<void(int plane, int first_row, int last_row)>;

struct Team {
  int threads;
  void barrier() const {
    if (threads > 1) {
#pragma omp barrier
    }
  }
};

// Run by every thread of the team. `written` is what the stages change: its halo is kept up where an axis is periodic.
template <class T> void follow(const Grid& g, const std::vector<Stage>& stages, Team team, T* written) {
  const Level& l = g.level;
  const bool serial = team.threads == 1 || g.cells < SERIAL, wraps = is_periodic(l);
  const int me = serial ? 0 : omp_get_thread_num(), threads = serial ? 1 : team.threads, count = int(stages.size());
  const int first = long(l.n[1]) * me / threads, last = long(l.n[1]) * (me + 1) / threads;
  const bool idle = serial && team.threads > 1 && omp_get_thread_num() != 0;
  const Team inner{threads};
  if (!idle) {
    const auto turn = [&](int s, int i) {
      if (i >= 0 && i < l.n[0]) stages[s](i, first, last);
      inner.barrier();
      if (wraps && written && i >= 0 && i < l.n[0]) {
        if (me == 0) wrap_rows(g, written, i);
        inner.barrier();
      }
    };
    if (l.periodic[0]) {  // a plane's neighbour may be at the other end: one stage after the other
      for (int s = 0; s < count; ++s) {
        for (int i = 0; i < l.n[0]; ++i) turn(s, i);
        if (me == 0 && written) wrap_planes(g, written);
        inner.barrier();
      }
    } else {
      for (int t = 0; t < l.n[0] + count - 1; ++t)
        for (int s = 0; s < count; ++s) turn(s, t - s);
    }
  }
  team.barrier();
}

// ---- the hierarchy ----------------------------------------------------------------------------------------------------
struct Hierarchy {
  std::vector<Grid> grids;
  std::vector<float> bottom_inverse;  // of the coarsest level, dense
  std::vector<long> bottom_cells;
  Settings settings;
  // of the outer loop; made at the first solve
  Array<float> p, q, change;
  Array<double> solution, right;

  template <class Faces> void relax_stage(std::vector<Stage>& stages, const Grid& g, int colour, int how) {
    stages.push_back([&g, colour, how](int i, int first, int last) {
      for (int j = first; j < last; ++j) relax_row<Faces>(g.level, i, j, colour, how);
    });
  }

  void clear_stage(std::vector<Stage>& stages, const Grid& g) {
    stages.push_back([&g](int i, int first, int last) {
      for (int j = first; j < last; ++j) std::memset(g.level.x + row_start(g.level, i, j) - 1, 0, g.level.row * sizeof(float));
    });
  }

  template <class Faces> void down_stages(std::vector<Stage>& stages, size_t number) {
    Grid& g = grids[number];
    const int sweeps = number == 0 ? settings.sweeps_fine : settings.sweeps_coarse;
    const bool both = has_odd_wrap(g.level);
    if (both) clear_stage(stages, g);
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      relax_stage<Faces>(stages, g, 0, sweep == 0 ? FROM_ZERO : OVER);
      relax_stage<Faces>(stages, g, 1, both ? OVER : PLAIN);
    }
    Grid& coarse = grids[number + 1];
    stages.push_back([&g, &coarse, both](int i, int first, int last) {
      std::vector<float>& scratch = row_scratch(g.level);
      // rows that make one coarse row are one thread's: split at even rows
      const int step = g.level.coarsens[1] ? 2 : 1;
      const int begin = (first + step - 1) / step * step, end = last == g.level.n[1] ? last : (last + step - 1) / step * step;
      for (int j = begin; j < end; ++j) gather_row<Faces>(g, coarse, i, j, both, scratch.data());
    });
    stages.push_back([&g, &coarse](int i, int first, int last) {
      const Level& l = g.level;
      if (l.coarsens[0] && i % 2 == 0 && i != l.n[0] - 1) return;
      const int I = l.coarsens[0] ? i >> 1 : i;
      const int begin = l.coarsens[1] ? (first + 1) / 2 : first, end = l.coarsens[1] ? (last + 1) / 2 : last;
      for (int J = begin; J < end; ++J) restrict_row(g, coarse, I, J);
    });
  }

  template <class Faces> void up_stages(std::vector<Stage>& stages, size_t number) {
    Grid &g = grids[number], &coarse = grids[number + 1];
    const bool both = has_odd_wrap(g.level);
    stages.push_back([&g, &coarse, both](int i, int first, int last) {
      std::vector<float>& scratch = row_scratch(g.level);
      for (int j = first; j < last; ++j) prolong_row<std::is_same<Faces, PlainFaces>::value>(g, coarse, i, j, both, scratch.data());
    });
    const int sweeps = number == 0 ? settings.sweeps_fine : settings.sweeps_coarse;
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      relax_stage<Faces>(stages, g, 1, both ? OVER : PLAIN);
      relax_stage<Faces>(stages, g, 0, OVER);
    }
  }

  static std::vector<float>& row_scratch(const Level& l) {
    static thread_local std::vector<float> scratch;
    if (scratch.size() < size_t(4 * l.pitch + 8)) scratch.resize(4 * l.pitch + 8);
    return scratch;
  }

  void descend(size_t number, Team team) {
    if (number + 1 == grids.size()) return solve_bottom(team);
    Grid& g = grids[number];
    std::vector<Stage> stages;
    if (g.level.code) down_stages<PlainFaces>(stages, number);
    else down_stages<StoredFaces>(stages, number);
    follow(g, stages, team, g.level.x);
    coarse_and_up(number, team, {});
  }
  // `last`: a stage more, behind the last sweep
  void coarse_and_up(size_t number, Team team, const std::vector<Stage>& last) {
    Grid& g = grids[number];
    descend(number + 1, team);
    std::vector<Stage> stages;
    if (g.level.code) up_stages<PlainFaces>(stages, number);
    else up_stages<StoredFaces>(stages, number);
    stages.insert(stages.end(), last.begin(), last.end());
    follow(g, stages, team, g.level.x);
  }

  void solve_bottom(Team team) {
    team.barrier();
    if (team.threads == 1 || omp_get_thread_num() == 0) {
      Grid& g = grids.back();
      const size_t n = bottom_cells.size();
      for (size_t row = 0; row < n; ++row) {
        float sum = 0.0f;
        for (size_t column = 0; column < n; ++column) sum += bottom_inverse[row * n + column] * g.level.b[bottom_cells[column]];
        g.level.x[bottom_cells[row]] = sum;
      }
      wrap(g, g.level.x);
    }
    team.barrier();
  }

  void make_bottom();
};

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
