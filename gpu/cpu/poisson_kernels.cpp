// Multigrid and mixed-precision conjugate gradients for the Poisson equation on CPUs, one instruction set (gpu/cuda/poisson.cuh).
//
// What bounds it: memory. So a pass goes plane by plane, and every stage of a half-cycle (sweeps of both colours, residual,
// restriction) follows the one before it by one plane: an array is read once and written once however many stages there are.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include <omp.h>

#include "../cuda/poisson.cuh"

#define CONCATENATE_(a, b) a##_##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) auto CONCATENATE(name, SKYSOLVE_NAMESPACE)

namespace SKYSOLVE_NAMESPACE {
namespace {

constexpr long SERIAL = 32768;  // a level with fewer cells is one thread's work: a barrier per plane would cost more
constexpr int BOTTOM = 64;      // cells of a level that is solved by a stored inverse
enum { FLUID = 0, SOLID = 1, AIR = 2 };

template <class T> struct Array {
  std::unique_ptr<T, void (*)(void*)> values{nullptr, std::free};
  Array() = default;
  explicit Array(long n) {
    values.reset(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 127) / 64 * 64)));
    if (!values) throw std::bad_alloc();
    std::memset(values.get(), 0, n * sizeof(T));
  }
  T* get() const { return values.get(); }
};

// Subnormal numbers cost a hundred cycles each and carry nothing here.
struct FlushSubnormals {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(before | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before); }
#endif
};

struct Settings {  // ctypes knows this layout (gpu/poisson.py)
  int sweeps_fine, sweeps_coarse, threads, reserved;
  float over_fine, over_coarse, tie, stiffness;
};

struct Grid {
  Level level{};
  long size = 0, cells = 0;
  Array<Code> code;
  Array<float> face[3], diagonal, tie[3], x, b;
  Array<float> excess[6];  // Dirichlet neighbours below and above along each axis; kept while the next level is made
  Array<float> sums;       // for restriction: six sums of residuals for each coarse cell, a ring of planes

  void shape(const int n[3], const int periodic[3]) {
    Level& l = level;
    for (int a = 0; a < 3; ++a) l.n[a] = n[a], l.periodic[a] = periodic[a];
    l.half = (n[2] + 1) / 2;
    l.pitch = (l.half + 2 + 3) / 4 * 4;
    l.row = 2 * l.pitch;
    l.plane = (n[1] + 2) * l.row;
    size = (n[0] + 2) * l.plane;
    cells = long(n[0]) * n[1] * n[2];
    x = Array<float>(size), b = Array<float>(size);
    l.x = x.get(), l.b = b.get();
  }
  void store_faces() {
    for (int a = 0; a < 3; ++a) face[a] = Array<float>(size);
    diagonal = Array<float>(size);
    for (auto& e : excess) e = Array<float>(size);
    level.face_x = face[0].get(), level.face_y = face[1].get(), level.face_z = face[2].get(), level.diagonal = diagonal.get();
  }
  void make_ties() {
    for (int a = 0; a < 3; ++a) tie[a] = Array<float>(size);
    level.tie_x = tie[0].get(), level.tie_y = tie[1].get(), level.tie_z = tie[2].get();
  }
  // -1 and n[a] are in the halo
  long at(int i, int j, int k) const {
    return (i + 1) * level.plane + (j + 1) * level.row + 1 + (k & 1) * level.pitch + (k < 0 ? -1 : k / 2);
  }
};

// ---- the halo of periodic axes --------------------------------------------------------------------------------------
template <class T> void wrap_rows(const Grid& g, T* x, int i) {  // along y and z, of one plane
  const Level& l = g.level;
  if (l.periodic[2])
    for (int j = 0; j < l.n[1]; ++j) {
      x[g.at(i, j, -1)] = x[g.at(i, j, l.n[2] - 1)];
      x[g.at(i, j, l.n[2])] = x[g.at(i, j, 0)];
    }
  if (l.periodic[1]) {
    T* plane = x + (i + 1) * l.plane;
    std::memcpy(plane, plane + l.n[1] * l.row, l.row * sizeof(T));
    std::memcpy(plane + (l.n[1] + 1) * l.row, plane + l.row, l.row * sizeof(T));
  }
}
template <class T> void wrap_planes(const Grid& g, T* x) {
  const Level& l = g.level;
  if (!l.periodic[0]) return;
  std::memcpy(x, x + l.n[0] * l.plane, l.plane * sizeof(T));
  std::memcpy(x + (l.n[0] + 1) * l.plane, x + l.plane, l.plane * sizeof(T));
}
template <class T> void wrap(const Grid& g, T* x) {
  for (int i = 0; i < g.level.n[0]; ++i) wrap_rows(g, x, i);
  wrap_planes(g, x);
}
bool is_periodic(const Level& l) { return l.periodic[0] || l.periodic[1] || l.periodic[2]; }

// ---- work on rows ------------------------------------------------------------------------------------------------------
enum Relax { FROM_ZERO, OVER, PLAIN };

template <class Faces, int P, int HOW> void relax_run(const Level& l, long start) {
  const Faces f(l);
  float* __restrict x = l.x;
  const float* __restrict b = l.b;
  const float over = l.over;
  const int pitch = l.pitch;
#pragma GCC ivdep
  for (int K = 0; K < l.half; ++K) {
    const long c = start + P * pitch + K;
    if (HOW == FROM_ZERO) {
      x[c] = over * inverse_or_zero(f.diagonal(c)) * b[c];
    } else {
      const float solved = relaxed(f, x, b, c, below(pitch, P, c), above(pitch, P, c));
      x[c] = HOW == OVER ? x[c] + over * (solved - x[c]) : solved;
    }
  }
}
template <class Faces> void relax_row(const Level& l, int i, int j, int colour, int how) {
  const long start = row_start(l, i, j);
  const int p = parity(i, j, colour);
  if (how == FROM_ZERO) return p ? relax_run<Faces, 1, FROM_ZERO>(l, start) : relax_run<Faces, 0, FROM_ZERO>(l, start);
  if (how == OVER) return p ? relax_run<Faces, 1, OVER>(l, start) : relax_run<Faces, 0, OVER>(l, start);
  return p ? relax_run<Faces, 1, PLAIN>(l, start) : relax_run<Faces, 0, PLAIN>(l, start);
}

// Residuals of one block of a row; the other colour's are zero after its last sweep.
template <class Faces, int P> void residual_run(const Level& l, long start, float* __restrict out) {
  const Faces f(l);
  const float* __restrict x = l.x;
  const float* __restrict b = l.b;
  const int pitch = l.pitch;
  for (int K = 0; K < l.half; ++K) {
    const long c = start + P * pitch + K;
    out[K] = residual(f, x, b, c, below(pitch, P, c), above(pitch, P, c));
  }
}

// ---- restriction: the transpose of prolongation ----------------------------------------------------------------------
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

// ---- stages that follow each other through the planes --------------------------------------------------------------
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
  Array<float> p, change;
  Array<double> solution, right;

  template <class Faces> void relax_stage(std::vector<Stage>& stages, const Grid& g, int colour, int how) {
    stages.push_back([&g, colour, how](int i, int first, int last) {
      for (int j = first; j < last; ++j) relax_row<Faces>(g.level, i, j, colour, how);
    });
  }

  template <class Faces> void down_stages(std::vector<Stage>& stages, size_t number) {
    Grid& g = grids[number];
    const int sweeps = number == 0 ? settings.sweeps_fine : settings.sweeps_coarse;
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      relax_stage<Faces>(stages, g, 0, sweep == 0 ? FROM_ZERO : OVER);
      relax_stage<Faces>(stages, g, 1, PLAIN);
    }
    Grid& coarse = grids[number + 1];
    const bool both = has_odd_wrap(g.level);
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
      relax_stage<Faces>(stages, g, 1, PLAIN);
      relax_stage<Faces>(stages, g, 0, OVER);
    }
  }

  // An odd periodic axis ties cells of one colour: their residuals do not vanish after their sweep.
  static bool has_odd_wrap(const Level& l) {
    for (int a = 0; a < 3; ++a)
      if (l.periodic[a] && l.n[a] % 2) return true;
    return false;
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

// Dense inverse by L D L^T; a pivot that vanishes (a pool that no Dirichlet value holds) is left out: positive semidefinite.
void Hierarchy::make_bottom() {
  const Grid& g = grids.back();
  const Level& l = g.level;
  std::vector<int> number(g.size, -1);
  bottom_cells.clear();
  const auto diagonal = [&](long c) { return l.code ? PlainFaces(l).diagonal(c) : l.diagonal[c]; };
  for (int i = 0; i < l.n[0]; ++i)
    for (int j = 0; j < l.n[1]; ++j)
      for (int k = 0; k < l.n[2]; ++k)
        if (const long c = g.at(i, j, k); diagonal(c) > 0.0f) number[c] = int(bottom_cells.size()), bottom_cells.push_back(c);
  const size_t n = bottom_cells.size();
  std::vector<double> A(n * n, 0.0), inverse(n * n, 0.0);
  const int periodic_size[3] = {l.n[0], l.n[1], l.n[2]};
  size_t row = 0;
  for (int i = 0; i < l.n[0]; ++i)
    for (int j = 0; j < l.n[1]; ++j)
      for (int k = 0; k < l.n[2]; ++k) {
        const long c = g.at(i, j, k);
        if (number[c] < 0) continue;
        A[row * n + row] += diagonal(c);
        for (int a = 0; a < 3; ++a) {
          int up[3] = {i, j, k};
          if (++up[a] == periodic_size[a]) {
            if (!l.periodic[a]) continue;
            up[a] = 0;
          }
          const int other = number[g.at(up[0], up[1], up[2])];
          if (other < 0) continue;
          const float* faces[3] = {l.face_x, l.face_y, l.face_z};
          const double f = l.code ? l.weight[a] : faces[a][c];
          A[row * n + other] -= f, A[other * n + row] -= f;
        }
        ++row;
      }
  std::vector<double> L(n * n, 0.0), D(n, 0.0);
  for (size_t j = 0; j < n; ++j) {
    double pivot = A[j * n + j];
    for (size_t k = 0; k < j; ++k) pivot -= L[j * n + k] * L[j * n + k] * D[k];
    D[j] = pivot > 1e-5 * A[j * n + j] ? pivot : 0.0;
    L[j * n + j] = 1.0;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = A[i * n + j];
      for (size_t k = 0; k < j; ++k) sum -= L[i * n + k] * L[j * n + k] * D[k];
      L[i * n + j] = D[j] > 0.0 ? sum / D[j] : 0.0;
    }
  }
  std::vector<double> y(n);
  for (size_t column = 0; column < n; ++column) {
    for (size_t i = 0; i < n; ++i) {
      y[i] = i == column ? 1.0 : 0.0;
      for (size_t k = 0; k < i; ++k) y[i] -= L[i * n + k] * y[k];
    }
    for (size_t i = n; i-- > 0;) {
      double sum = D[i] > 0.0 ? y[i] / D[i] : 0.0;
      for (size_t k = i + 1; k < n; ++k) sum -= L[k * n + i] * inverse[k * n + column];
      inverse[i * n + column] = D[i] > 0.0 ? sum : 0.0;
    }
  }
  bottom_inverse.assign(n * n, 0.0f);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) bottom_inverse[i * n + j] = float(0.5 * (inverse[i * n + j] + inverse[j * n + i]));
}

// ---- coarser operators ------------------------------------------------------------------------------------------------
// What the next level is made of, from flags or from stored faces.
struct FlagSource {
  const uint8_t* cells;  // with a halo of flags
  int n[3];
  float weight[3];
  long stride[3];
  long at(int i, int j, int k) const { return (i + 1) * stride[0] + (j + 1) * stride[1] + (k + 1); }
  bool fluid(int i, int j, int k) const { return cells[at(i, j, k)] == FLUID; }
  float face(int a, int i, int j, int k) const {  // on the upper side
    const long c = at(i, j, k);
    return cells[c] == FLUID && cells[c + stride[a]] == FLUID ? weight[a] : 0.0f;
  }
  float excess(int which, int i, int j, int k) const {
    const long c = at(i, j, k), other = c + (which & 1 ? stride[which / 2] : -stride[which / 2]);
    return cells[c] == FLUID && cells[other] == AIR ? weight[which / 2] : 0.0f;
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
    for (int I = -(a == 0); I < c.n[0]; ++I)
      for (int J = -(a == 1); J < c.n[1]; ++J)
        for (int K = -(a == 2); K < c.n[2]; ++K) {
          const int cell[3] = {I, J, K};
          const long at = coarse.at(I, J, K), up = coarse.at(I + step[a][0], J + step[a][1], K + step[a][2]);
          bool tied = coarse.face[a].get()[at] > 0.0f;
          if (!tied) {
            const bool below_is_air = cell[a] < 0 || !(c.diagonal[at] > 0.0f), above_is_air = cell[a] == c.n[a] - 1 || !(c.diagonal[up] > 0.0f);
            tied = (above_is_air && cell[a] >= 0 && coarse.excess[2 * a + 1].get()[at] > 0.0f) ||
                   (below_is_air && cell[a] < c.n[a] - 1 && coarse.excess[2 * a].get()[up] > 0.0f);
          }
          tie[a][at] = tied ? full : 0.0f;
        }
  }
}


void choose_axes(Level& l, double h[3]) {
  double least = 1e300;
  for (int a = 0; a < 3; ++a)
    if (l.n[a] > 1 && h[a] < least) least = h[a];
  for (int a = 0; a < 3; ++a) l.coarsens[a] = l.n[a] > 1 && h[a] <= 1.5 * least;
}

void build_levels(Hierarchy& made, const FlagSource* flags, const float weight[3]) {
  double h[3], width[3] = {1, 1, 1};
  for (int a = 0; a < 3; ++a) h[a] = 1 / std::sqrt(double(weight[a]));
  while (made.grids.back().cells > BOTTOM) {
    Grid& fine = made.grids.back();
    choose_axes(fine.level, h);
    int n[3], periodic[3];
    for (int a = 0; a < 3; ++a) {
      n[a] = fine.level.coarsens[a] ? (fine.level.n[a] + 1) / 2 : fine.level.n[a];
      periodic[a] = fine.level.periodic[a];
    }
    Grid coarse;
    coarse.shape(n, periodic);
    coarse.store_faces();
    coarse.make_ties();
    coarse.level.over = made.settings.over_coarse;
    if (made.grids.size() == 1 && flags) coarsen(*flags, fine, coarse, width, made.settings);
    else coarsen(GridSource{fine}, fine, coarse, width, made.settings);
    for (auto& e : fine.excess) e = Array<float>();
    fine.sums = Array<float>(sums_size(coarse));
    for (int a = 0; a < 3; ++a)
      if (fine.level.coarsens[a]) h[a] *= 2, width[a] *= 2;
    made.grids.push_back(std::move(coarse));
  }
  made.make_bottom();
}

// ---- vectors of the fluid cells' values, and grids in C order ------------------------------------------------------------
template <class Visit> void for_rows(const Grid& g, Visit visit) {
  for (int i = 0; i < g.level.n[0]; ++i)
    for (int j = 0; j < g.level.n[1]; ++j) visit(i, j);
}
// `from` holds every cell's value; what is not fluid becomes zero
template <class T> void load_row(const Grid& g, const double* __restrict from, T* __restrict to, double factor, int i, int j) {
  const Level& l = g.level;
  const long start = row_start(l, i, j);
  const Code* __restrict code = g.code.get();
  const double* __restrict row = from + (long(i) * l.n[1] + j) * l.n[2];
  for (int p = 0; p < 2; ++p)
    for (int K = 0; 2 * K + p < l.n[2]; ++K) {
      const long c = start + p * l.pitch + K;
      to[c] = code[c] ? T(row[2 * K + p] * factor) : T(0);
    }
}
template <class T> void store_row(const Grid& g, const T* __restrict from, double* __restrict to, double factor, int i, int j) {
  const Level& l = g.level;
  const long start = row_start(l, i, j);
  double* __restrict row = to + (long(i) * l.n[1] + j) * l.n[2];
  for (int p = 0; p < 2; ++p)
    for (int K = 0; 2 * K + p < l.n[2]; ++K) row[2 * K + p] = double(from[start + p * l.pitch + K]) * factor;
}
template <class T> const double* unpack(const Grid& g, const double* vector, T* to) {
  for_rows(g, [&](int i, int j) {
    const long start = row_start(g.level, i, j);
    for (int k = 0; k < g.level.n[2]; ++k) {
      const long c = start + (k & 1) * g.level.pitch + k / 2;
      to[c] = g.code.get()[c] ? T(*vector++) : T(0);
    }
  });
  return vector;
}
template <class T> void pack(const Grid& g, const T* from, double* vector) {
  for_rows(g, [&](int i, int j) {
    const long start = row_start(g.level, i, j);
    for (int k = 0; k < g.level.n[2]; ++k) {
      const long c = start + (k & 1) * g.level.pitch + k / 2;
      if (g.code.get()[c]) *vector++ = double(from[c]);
    }
  });
}

// ---- conjugate gradients: float32 directions, float64 solution ----------------------------------------------------------
// The residual of the recursion is float32; whenever it has fallen by UPDATE it is replaced by the true one, in float64, and the
// direction is kept (reliable updates: Sleijpen and van der Vorst, Computing 56 (1996)).
constexpr double UPDATE = 1e-3;
enum End { CONVERGED = 0, MAXITER = 1, CURVATURE = 2, NOT_FINITE = 3, STALLED = 4 };

struct Report {
  double residual, tolerance;
  int iterations, end, updates, capacity;
};

struct Outer {
  Hierarchy& h;
  Grid& g;
  Team team;
  std::vector<double> partial;

  Outer(Hierarchy& hierarchy, int threads) : h(hierarchy), g(hierarchy.grids[0]), team{threads}, partial(size_t(threads) * 16, 0.0) {}

  double total() {  // of what the threads have gathered; all threads get the same number
    team.barrier();
    double sum = 0.0;
    for (int t = 0; t < team.threads; ++t) sum += partial[size_t(t) * 16];
    team.barrier();
    return sum;
  }
  double& mine() { return partial[size_t(team.threads == 1 ? 0 : omp_get_thread_num()) * 16]; }

  template <int P> static double update_run(const Level& l, long start, float alpha, const float* __restrict p, float* __restrict change) {
    const PlainFaces f(l);
    float* __restrict r = l.b;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int K = 0; K < l.half; ++K) {
      const long c = start + P * l.pitch + K;
      const float Ap = f.diagonal(c) * p[c] - f.neighbours(p, c, below(l.pitch, P, c), above(l.pitch, P, c));
      change[c] += alpha * p[c];
      const float value = f.code[c] ? r[c] - alpha * Ap : 0.0f;
      r[c] = value;
      sum += value * value;
    }
    return sum;
  }
  template <int P> static double curvature_run(const Level& l, long start, const float* __restrict p) {
    const PlainFaces f(l);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int K = 0; K < l.half; ++K) {
      const long c = start + P * l.pitch + K;
      sum += p[c] * (f.diagonal(c) * p[c] - f.neighbours(p, c, below(l.pitch, P, c), above(l.pitch, P, c)));
    }
    return sum;
  }
  template <int P> double true_run(long start) {
    const Level& l = g.level;
    const PlainFaces f(l);
    const double* __restrict x = h.solution.get();
    const double* __restrict right = h.right.get();
    float* __restrict r = l.b;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int K = 0; K < l.half; ++K) {
      const long c = start + P * l.pitch + K;
      const int bits = f.code[c];
      const double d = (bits & 3) * double(l.weight[0]) + ((bits >> 2) & 3) * double(l.weight[1]) + ((bits >> 4) & 3) * double(l.weight[2]);
      const double value = bits ? right[c] - (d * x[c] - f.neighbours(x, c, below(l.pitch, P, c), above(l.pitch, P, c))) : 0.0;
      r[c] = float(value);
      sum += value * value;
    }
    return sum;
  }

  double curvature(float beta) {
    const Level& l = g.level;
    float* p = h.p.get();
    mine() = 0.0;
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
                   mine() += curvature_run<0>(l, start, p) + curvature_run<1>(l, start, p);
                 }
               }},
           team, p);
    return total();
  }

  void append_down(std::vector<Stage>& stages) {
    if (h.grids.size() > 1) h.down_stages<PlainFaces>(stages, 0);
  }
  double step_and_descend(float alpha) {
    const Level& l = g.level;
    mine() = 0.0;
    std::vector<Stage> stages = {[&](int i, int first, int last) {
      for (int j = first; j < last; ++j) {
        const long start = row_start(l, i, j);
        mine() += update_run<0>(l, start, alpha, h.p.get(), h.change.get()) + update_run<1>(l, start, alpha, h.p.get(), h.change.get());
      }
    }};
    append_down(stages);
    follow(g, stages, team, l.x);
    return total();
  }
  void descend_only() {
    std::vector<Stage> stages;
    append_down(stages);
    follow(g, stages, team, g.level.x);
  }
  double ascend() {  // z.r
    const Level& l = g.level;
    mine() = 0.0;
    const Stage product = [&](int i, int first, int last) {
      for (int j = first; j < last; ++j) {
        const long start = row_start(l, i, j);
        const float* __restrict z = l.x;
        const float* __restrict r = l.b;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (long c = start; c < start + l.pitch + l.half; ++c) sum += z[c] * r[c];
        mine() += sum;
      }
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
    mine() = 0.0;
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
                   mine() += true_run<0>(start) + true_run<1>(start);
                 }
               }},
           team, x);
    return total();
  }
};

void solve(Outer& o, const double* grid, double* result, double rtol, double atol, int maxiter, int capacity, double* history, Report* report,
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
  const double tolerance = std::fmax(rtol * norm, atol / scale);
  double update_at = std::fmax(tolerance, UPDATE * norm), last_true = norm, zr = 0.0;
  int step = 0, updates = 0, end = CONVERGED;
  if (me == 0 && capacity > 0) history[0] = norm * scale;
  bool descended = false;
  while (norm > tolerance) {
    if (step == maxiter) { end = MAXITER; break; }
    if (!descended) o.descend_only();
    const double fresh = o.ascend(), beta = zr > 0.0 ? fresh / zr : 0.0;
    zr = fresh;
    const double curvature = o.curvature(float(beta));
    if (!(std::isfinite(curvature) && std::isfinite(zr))) { end = NOT_FINITE; break; }
    if (curvature <= 0.0 || zr <= 0.0) { end = CURVATURE; break; }
    norm = std::sqrt(o.step_and_descend(float(zr / curvature)));
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

using namespace SKYSOLVE_NAMESPACE;

// `cells`: flags with a halo, (nx+2, ny+2, nz+2) in C order. `faces`, `excess`: null where open faces all have `weight`; else three
// and six arrays (nx, ny, nz): upper faces of each cell, and what Dirichlet neighbours below and above add along each axis.
EXPORT(poisson_create)(const int* n, const int* periodic, const float* weight, const uint8_t* cells, const float* const* faces,
                       const float* const* excess, const Settings* settings) -> Hierarchy* {
  auto* made = new Hierarchy;
  made->settings = *settings;
  made->grids.emplace_back();
  Grid& g = made->grids[0];
  g.shape(n, periodic);
  g.code = Array<Code>(g.size);
  g.level.over = settings->over_fine;
  for (int a = 0; a < 3; ++a) g.level.weight[a] = weight[a];
  FlagSource flags{cells, {n[0], n[1], n[2]}, {weight[0], weight[1], weight[2]}, {long(n[1] + 2) * (n[2] + 2), n[2] + 2, 1}};
  for (int i = 0; i < n[0]; ++i)
    for (int j = 0; j < n[1]; ++j) {
      const uint8_t* row = cells + flags.at(i, j, 0);
      const long sx = flags.stride[0], sy = flags.stride[1], start = row_start(g.level, i, j);
      for (int p = 0; p < 2; ++p) {
        Code* __restrict to = g.code.get() + start + p * g.level.pitch;
        for (int K = 0; 2 * K + p < n[2]; ++K) {
          const uint8_t* c = row + 2 * K + p;
          const int open = (c[-sx] != SOLID) + (c[sx] != SOLID) + 4 * ((c[-sy] != SOLID) + (c[sy] != SOLID)) + 16 * ((c[-1] != SOLID) + (c[1] != SOLID));
          to[K] = *c == FLUID ? Code(open + 64) : 0;
        }
      }
    }
  if (!faces) {
    g.level.code = g.code.get();
  } else {
    g.store_faces();
    for (int i = 0; i < n[0]; ++i)
      for (int j = 0; j < n[1]; ++j)
        for (int k = 0; k < n[2]; ++k) {
          const long c = g.at(i, j, k), from = (long(i) * n[1] + j) * n[2] + k;
          for (int a = 0; a < 3; ++a) g.face[a].get()[c] = faces[a][from];
          for (int e = 0; e < 6; ++e) g.excess[e].get()[c] = excess[e][from];
        }
    finish_faces(g);
  }
  build_levels(*made, faces ? nullptr : &flags, weight);
  return made;
}

EXPORT(poisson_free)(Hierarchy* h) -> void { delete h; }

// One cycle on vectors of the fluid cells' values.
EXPORT(poisson_cycle)(Hierarchy* h, const double* r, double* z, double scale, int threads) -> void {
  Grid& g = h->grids[0];
  unpack(g, r, g.level.b);
  for (long c = 0; c < g.size; ++c) g.level.b[c] *= float(1 / scale);
#pragma omp parallel num_threads(threads)
  {
    const FlushSubnormals flush;
    h->descend(0, Team{omp_get_num_threads()});
  }
  pack(g, g.level.x, z);
}

// Solve on grids (nx, ny, nz): float64 solution and residuals around float32 directions. Plain faces only. `result` holds the guess.
EXPORT(poisson_solve)(Hierarchy* h, const double* right, double* result, double scale, double rtol, double atol, int maxiter, int threads,
                      int capacity, double* history, Report* report) -> void {
  Grid& g = h->grids[0];
  h->p = Array<float>(g.size), h->change = Array<float>(g.size), h->solution = Array<double>(g.size), h->right = Array<double>(g.size);
  for_rows(g, [&](int i, int j) { load_row(g, result, h->solution.get(), 1 / scale, i, j); });
  wrap(g, h->solution.get());
  std::memset(g.level.x, 0, g.size * sizeof(float));
  Outer outer(*h, threads);
#pragma omp parallel num_threads(threads)
  solve(outer, right, result, rtol, atol, maxiter, capacity, history, report, scale);
}

// IC(0) of a CSR matrix with sorted indices whose diagonal is stored: only the pivots change, L = (D + E) D^-1/2. A pivot that is lost
// (a pool that no Dirichlet value holds) is replaced by the matrix's own diagonal, or by 1.
EXPORT(poisson_pivots)(int64_t n, const int64_t* start, const int64_t* column, const double* value, double* pivot) -> void {
  for (int64_t i = 0; i < n; ++i) {
    double d = 0.0, own = 0.0;
    for (int64_t at = start[i]; at < start[i + 1]; ++at) {
      if (column[at] < i) d -= value[at] * value[at] / pivot[column[at]];
      if (column[at] == i) own = value[at];
    }
    d += own;
    pivot[i] = d > 1e-3 * own ? d : (own > 0.0 ? own : 1.0);
  }
}
// (D + E) D^-1 (D + E)^T z = r
EXPORT(poisson_triangular)(int64_t n, const int64_t* start, const int64_t* column, const double* value, const double* pivot,
                           const double* r, double* z) -> void {
  for (int64_t i = 0; i < n; ++i) {
    double sum = r[i];
    for (int64_t at = start[i]; at < start[i + 1] && column[at] < i; ++at) sum -= value[at] * z[column[at]];
    z[i] = sum / pivot[i];
  }
  for (int64_t i = n; i-- > 0;) {
    double sum = 0.0;
    for (int64_t at = start[i + 1]; at-- > start[i] && column[at] > i;) sum += value[at] * z[column[at]];
    z[i] -= sum / pivot[i];
  }
}
