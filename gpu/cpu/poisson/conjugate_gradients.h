// Conjugate gradients: float32 directions, float64 solution.
#pragma once
#include <cmath>
#include <functional>

#include "hierarchy.h"
#include "vectors.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

// The residual of the recursion is float32; whenever it has fallen by UPDATE it is replaced by the true one, in float64, and the
// direction is kept (reliable updates: Sleijpen and van der Vorst, Computing 56 (1996)).
constexpr double UPDATE = 1e-3;
enum End { CONVERGED = 0, MAXITER = 1, CURVATURE = 2, NOT_FINITE = 3, STALLED = 4 };

struct Report {
  double residual, tolerance;
  int iterations, end, updates, capacity;
};

struct Two {
  double first, second;
  void operator+=(Two other) { first += other.first, second += other.second; }
};

struct Outer {
  Hierarchy& h;
  Grid& g;
  Team team;
  std::vector<Two> partial;  // a cache line for each thread

  Outer(Hierarchy& hierarchy, int threads) : h(hierarchy), g(hierarchy.grids[0]), team{threads}, partial(size_t(threads) * 8) {}

  // Sums of what the threads have gathered; all threads get the same numbers.
  Two total() {
    team.barrier();
    Two sum{0.0, 0.0};
    for (int t = 0; t < team.threads; ++t) sum.first += partial[size_t(t) * 8].first, sum.second += partial[size_t(t) * 8].second;
    team.barrier();
    return sum;
  }
  Two& mine() { return partial[size_t(team.threads == 1 ? 0 : omp_get_thread_num()) * 8]; }

  // q = A p, and p.Ap, in float64: in a channel a thousand cells long the neighbours of a smooth direction cancel all digits of float32.
  template <int P> static double operator_run(const Level& l, long start, const float* __restrict p, float* __restrict q) {
    const PlainFacesOf<double> f(l);
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int K = 0; K < l.half; ++K) {
      const long c = start + P * l.pitch + K;
      // a row of odd length ends with a value of its periodic halo: no row of the matrix
      const double Ap = f.code[c] ? f.diagonal(c) * p[c] - f.neighbours(p, c, below(l.pitch, P, c), above(l.pitch, P, c)) : 0.0;
      q[c] = float(Ap);
      sum += p[c] * Ap;
    }
    return sum;
  }
  template <int P> double true_run(long start) {
    const Level& l = g.level;
    const PlainFacesOf<double> f(l);
    const double* __restrict x = h.solution.get();
    const double* __restrict right = h.right.get();
    float* __restrict r = l.b;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int K = 0; K < l.half; ++K) {
      const long c = start + P * l.pitch + K;
      const double Ax = f.diagonal(c) * x[c] - f.neighbours(x, c, below(l.pitch, P, c), above(l.pitch, P, c));
      const double value = f.code[c] ? right[c] - Ax : 0.0;
      r[c] = float(value);
      sum += value * value;
    }
    return sum;
  }

  // The next direction p = z + beta p, and q = A p; p.Ap.
  double direct(float beta) {
    const Level& l = g.level;
    float *p = h.p.get(), *q = h.q.get();
    mine() = {0.0, 0.0};
    follow(g, {[&](int i, int first, int last) {
                 for (int j = first; j < last; ++j) {
                   const long start = row_start(l, i, j);
                   const float* __restrict z = l.x;
                   float* __restrict to = p;
                   for (long c = start; c < start + l.pitch + l.half; ++c) to[c] = z[c] + beta * to[c];
                 }
               },
               [&](int i, int first, int last) {
                 for (int j = first; j < last; ++j) {
                   const long start = row_start(l, i, j);
                   mine().first += operator_run<0>(l, start, p, q) + operator_run<1>(l, start, p, q);
                 }
               }},
           team, p);
    return total().first;
  }

  double update_row(long start, float alpha) {  // the square of what is left
    const float *__restrict p = h.p.get(), *__restrict q = h.q.get();
    float *__restrict change = h.change.get(), *__restrict r = g.level.b;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long c = start; c < start + g.level.pitch + g.level.half; ++c) {
      change[c] += alpha * p[c];
      r[c] -= alpha * q[c];
      sum += r[c] * r[c];
    }
    return sum;
  }

  void append_down(std::vector<Stage>& stages) {
    if (h.grids.size() > 1) h.down_stages<PlainFaces>(stages, 0);
  }
  double step_and_descend(float alpha) {
    const Level& l = g.level;
    mine() = {0.0, 0.0};
    std::vector<Stage> stages = {[&](int i, int first, int last) {
      for (int j = first; j < last; ++j) mine().first += update_row(row_start(l, i, j), alpha);
    }};
    append_down(stages);
    follow(g, stages, team, l.x);
    return total().first;
  }
  void descend_only() {
    std::vector<Stage> stages;
    append_down(stages);
    follow(g, stages, team, g.level.x);
  }
  Two products_row(long start) {
    const float *__restrict z = g.level.x, *__restrict q = h.q.get(), *__restrict r = g.level.b;
    double zAp = 0.0, zr = 0.0;
#pragma omp simd reduction(+ : zAp, zr)
    for (long c = start; c < start + g.level.pitch + g.level.half; ++c) zAp += double(z[c]) * q[c], zr += double(z[c]) * r[c];
    return {zAp, zr};
  }

  // The proposal z from the residual; z.Ap of the last direction, and z.r.
  Two ascend() {
    const Level& l = g.level;
    mine() = {0.0, 0.0};
    const Stage product = [&](int i, int first, int last) {
      for (int j = first; j < last; ++j) mine() += products_row(row_start(l, i, j));
    };
    if (h.grids.size() > 1) h.coarse_and_up(0, team, {product});
    else {
      h.solve_bottom(team);
      follow(g, {product}, team, l.x);
    }
    return total();
  }
  double true_residual() {
    const Level& l = g.level;
    mine() = {0.0, 0.0};
    double* x = h.solution.get();
    float* change = h.change.get();
    follow(g, {[&](int i, int first, int last) {
                 for (int j = first; j < last; ++j) {
                   const long start = row_start(l, i, j);
                   for (long c = start; c < start + l.pitch + l.half; ++c) x[c] += double(change[c]), change[c] = 0.0f;
                 }
               },
               [&](int i, int first, int last) {
                 for (int j = first; j < last; ++j) {
                   const long start = row_start(l, i, j);
                   mine().first += true_run<0>(start) + true_run<1>(start);
                 }
               }},
           team, x);
    return total().first;
  }
};

void solve(Outer& o, const double* grid, double* result, double tolerance, int maxiter, int capacity, double* history, Report* report,
           double scale) {
  Hierarchy& h = o.h;
  Grid& g = o.g;
  const FlushSubnormals flush;
  const Level& l = g.level;
  const int threads = o.team.threads, me = threads == 1 ? 0 : omp_get_thread_num();
  const int planes = l.n[0];
  for (int i = planes * me / threads; i < planes * (me + 1) / threads; ++i)
    for (int j = 0; j < l.n[1]; ++j) load_row(g, grid, h.right.get(), 1 / scale, i, j);
  o.team.barrier();
  double norm = std::sqrt(o.true_residual());
  double update_at = std::fmax(tolerance, UPDATE * norm), last_true = norm, curvature = 0.0;
  int step = 0, updates = 0, end = CONVERGED;
  if (me == 0 && capacity > 0) history[0] = norm * scale;
  bool descended = false;
  while (norm > tolerance) {
    if (step == maxiter) { end = MAXITER; break; }
    if (!descended) o.descend_only();
    // From a product, not from the recursion's identity, which holds for an exact M only: float32 is not exact (Polak and Ribiere).
    const Two z = o.ascend();
    curvature = o.direct(curvature > 0.0 ? float(-z.first / curvature) : 0.0f);
    if (!(std::isfinite(curvature) && std::isfinite(z.second))) { end = NOT_FINITE; break; }
    if (curvature <= 0.0 || z.second <= 0.0) { end = CURVATURE; break; }
    norm = std::sqrt(o.step_and_descend(float(z.second / curvature)));
    descended = true;
    ++step;
    if (norm <= update_at || !std::isfinite(norm)) {
      norm = std::sqrt(o.true_residual());
      descended = false;
      ++updates;
      if (norm > 0.5 * last_true) { end = STALLED; break; }
      last_true = norm;
      update_at = std::fmax(tolerance, UPDATE * norm);
    }
    if (me == 0 && step < capacity) history[step] = norm * scale;
  }
  if (end != CONVERGED && end != STALLED) norm = std::sqrt(o.true_residual());
  for (int i = planes * me / threads; i < planes * (me + 1) / threads; ++i)
    for (int j = 0; j < l.n[1]; ++j) store_row(g, h.solution.get(), result, scale, i, j);
  o.team.barrier();
  if (me == 0) *report = {norm * scale, tolerance * scale, step, end, updates, capacity};
}

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
