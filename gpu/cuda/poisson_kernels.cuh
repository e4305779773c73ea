// The GPU's kernels of the multigrid cycle (gpu/poisson_on_gpu.py launches them) and of the operator on plain grids.
//
// One thread a cell. Threads of a warp take neighbouring values of one block of a row, so that loads coalesce though only one colour
// is visited. Values on periodic axes come from the halo, which `poisson_wrap` fills between launches; nothing waits inside a kernel.
#pragma once
#include "poisson.cuh"

namespace SKYSOLVE_NAMESPACE {

struct Place {
  int i, j, k;
  long c;
};

SKYSOLVE_INLINE long thread_number() { return (long)blockIdx.x * blockDim.x + threadIdx.x; }
// Value K of block p of row (i, j); false beyond the grid.
SKYSOLVE_INLINE bool find_value(const Level& l, long number, int colour, Place* at, int* block) {
  const long row = number / l.half;
  at->i = (int)(row / l.n[1]), at->j = (int)(row % l.n[1]);
  if (at->i >= l.n[0]) return false;
  const int K = (int)(number % l.half), p = parity(at->i, at->j, colour);
  at->k = 2 * K + p, at->c = row_start(l, at->i, at->j) + p * l.pitch + K, *block = p;
  return at->k < l.n[2];
}
SKYSOLVE_INLINE bool find_cell(const int n[3], long number, Place* at) {
  at->k = (int)(number % n[2]), number /= n[2];
  at->j = (int)(number % n[1]), at->i = (int)(number / n[1]);
  return at->i < n[0];
}

template <class Faces> SKYSOLVE_INLINE void relax_value(const Level& l, long c, int p, int how) {
  const Faces f(l);
  if (how == FROM_ZERO) {
    l.x[c] = l.over * inverse_or_zero(f.diagonal(c)) * l.b[c];
  } else {
    const float solved = relaxed(f, l.x, l.b, c, below(l.pitch, p, c), above(l.pitch, p, c));
    l.x[c] = how == OVER ? l.x[c] + l.over * (solved - l.x[c]) : solved;
  }
}

// Sum of the residuals of a coarse cell's children; on one side of axis `a` only where that axis is halved (side 0 or 1), else of all.
SKYSOLVE_INLINE float children(const Level& l, int I, int J, int K, int a, int side) {
  const int cell[3] = {I, J, K};
  int first[3], last[3];
  for (int axis = 0; axis < 3; ++axis) {
    first[axis] = l.coarsens[axis] ? 2 * cell[axis] : cell[axis];
    last[axis] = l.coarsens[axis] ? first[axis] + 1 : first[axis];
  }
  if (a >= 0 && l.coarsens[a]) first[a] += side, last[a] = first[a];
  float sum = 0.0f;
  for (int i = first[0]; i <= last[0] && i < l.n[0]; ++i)
    for (int j = first[1]; j <= last[1] && j < l.n[1]; ++j)
      for (int k = first[2]; k <= last[2] && k < l.n[2]; ++k) sum += l.r[cell_place(l, i, j, k)];
  return sum;
}

}  // namespace SKYSOLVE_NAMESPACE

using namespace SKYSOLVE_NAMESPACE;

extern "C" __global__ void poisson_relax(const Level* levels, int number, int colour, int how) {
  const Level l = levels[number];
  Place at;
  int p;
  if (!find_value(l, thread_number(), colour, &at, &p)) return;
  if (l.code) relax_value<PlainFaces>(l, at.c, p, how);
  else relax_value<StoredFaces>(l, at.c, p, how);
}

// Residuals of the first colour, of both if the second one's do not vanish.
extern "C" __global__ void poisson_residual(const Level* levels, int number, int both) {
  const Level l = levels[number];
  Place at;
  int p;
  for (int colour = 0; colour < 2; ++colour) {
    if (!find_value(l, thread_number(), colour, &at, &p)) continue;
    const long down = below(l.pitch, p, at.c), up = above(l.pitch, p, at.c);
    const float left = l.code ? residual(PlainFaces(l), l.x, l.b, at.c, down, up) : residual(StoredFaces(l), l.x, l.b, at.c, down, up);
    l.r[at.c] = colour == 0 || both ? left : 0.0f;
  }
}

// The transpose of poisson_prolong, from residuals of level `number` to the right-hand side of the next one.
extern "C" __global__ void poisson_restrict(const Level* levels, int number) {
  const Level l = levels[number], c = levels[number + 1];
  Place at;
  if (!find_cell(c.n, thread_number(), &at)) return;
  const int q = at.k & 1;
  at.c = row_start(c, at.i, at.j) + q * c.pitch + at.k / 2;
  const float* ties[3] = {c.tie_x, c.tie_y, c.tie_z};
  const long lower[3] = {at.c - c.plane, at.c - c.row, below(c.pitch, q, at.c)};
  float sum = children(l, at.i, at.j, at.k, -1, 0);
  for (int a = 0; a < 3; ++a) {
    if (!l.coarsens[a]) continue;
    int low[3] = {at.i, at.j, at.k}, high[3] = {at.i, at.j, at.k};
    --low[a], ++high[a];
    if (c.periodic[a]) low[a] = (low[a] + c.n[a]) % c.n[a], high[a] %= c.n[a];
    const float from_low = low[a] < 0 ? 0.0f : children(l, low[0], low[1], low[2], a, 1);
    const float from_high = high[a] >= c.n[a] ? 0.0f : children(l, high[0], high[1], high[2], a, 0);
    sum += ties[a][lower[a]] * (from_low - children(l, at.i, at.j, at.k, a, 0));
    sum += ties[a][at.c] * (from_high - children(l, at.i, at.j, at.k, a, 1));
  }
  c.b[at.c] = c.diagonal[at.c] > 0.0f ? sum : 0.0f;
}

// Adds the next level's values, interpolated; to the first colour only if the sweep that follows sets the second one anyway.
extern "C" __global__ void poisson_prolong(const Level* levels, int number, int both) {
  const Level l = levels[number], c = levels[number + 1];
  Place at;
  int p;
  for (int colour = 0; colour <= (both ? 1 : 0); ++colour) {
    if (!find_value(l, thread_number(), colour, &at, &p)) continue;
    if (!(l.code ? l.code[at.c] != 0 : l.diagonal[at.c] > 0.0f)) continue;
    const int fine[3] = {at.i, at.j, at.k};
    int coarse[3];
    for (int a = 0; a < 3; ++a) coarse[a] = l.coarsens[a] ? fine[a] / 2 : fine[a];
    const int q = coarse[2] & 1;
    const long e = row_start(c, coarse[0], coarse[1]) + q * c.pitch + coarse[2] / 2;
    const float* ties[3] = {c.tie_x, c.tie_y, c.tie_z};
    const long lower[3] = {e - c.plane, e - c.row, below(c.pitch, q, e)}, upper[3] = {e + c.plane, e + c.row, above(c.pitch, q, e)};
    float value = c.x[e];
    for (int a = 0; a < 3; ++a) {
      if (!l.coarsens[a]) continue;
      const bool is_high = fine[a] & 1;
      value += ties[a][is_high ? e : lower[a]] * (c.x[is_high ? upper[a] : lower[a]] - c.x[e]);
    }
    l.x[at.c] += value;
  }
}

// x of the coarsest level by its stored inverse.
extern "C" __global__ void poisson_bottom(const Level* levels, int number, const float* inverse, const int64* cells, int count) {
  const Level l = levels[number];
  const long row = thread_number();
  if (row >= count) return;
  float sum = 0.0f;
  for (int column = 0; column < count; ++column) sum += inverse[row * count + column] * l.b[cells[column]];
  l.x[cells[row]] = sum;
}

// Copies the last values of a periodic axis before its first ones, and the first behind the last.
extern "C" __global__ void poisson_wrap(const Level* levels, int number) {
  const Level l = levels[number];
  long left = thread_number();
  for (int a = 0; a < 3; ++a) {
    const int u = a == 0 ? 1 : 0, v = a == 2 ? 1 : 2;
    const long faces = (long)l.n[u] * l.n[v];
    if (left >= faces) {
      left -= faces;
      continue;
    }
    if (!l.periodic[a]) return;
    int cell[3];
    cell[u] = (int)(left / l.n[v]), cell[v] = (int)(left % l.n[v]);
    const int from[2] = {l.n[a] - 1, 0}, to[2] = {-1, l.n[a]};
    for (int side = 0; side < 2; ++side) {
      cell[a] = from[side];
      const float value = l.x[cell_place(l, cell[0], cell[1], cell[2])];
      cell[a] = to[side];
      l.x[cell_place(l, cell[0], cell[1], cell[2])] = value;
    }
    return;
  }
}

// A p on a grid (n0, n1, n2) in C order, float64: `diagonal` is zero outside the fluid, weights lie on n + 1 faces of their axis.
extern "C" __global__ void poisson_apply(const double* p, const double* diagonal, const double* w0, const double* w1, const double* w2,
                                         double* out, int n0, int n1, int n2, int periodic) {
  const int n[3] = {n0, n1, n2};
  const double* weights[3] = {w0, w1, w2};
  Place at;
  at.c = thread_number();
  if (!find_cell(n, at.c, &at)) return;
  double sum = diagonal[at.c] * p[at.c];
  const int cell[3] = {at.i, at.j, at.k};
  for (int a = 0; a < 3 && diagonal[at.c] > 0.0; ++a)
    for (int side = 0; side < 2; ++side) {
      int other[3] = {at.i, at.j, at.k}, face[3] = {at.i, at.j, at.k}, faces[3] = {n0, n1, n2};
      face[a] += side, faces[a] += 1;
      other[a] += 2 * side - 1;
      if (periodic >> a & 1) other[a] = (other[a] + n[a]) % n[a];
      if (other[a] < 0 || other[a] >= n[a]) continue;
      const long c = ((long)other[0] * n1 + other[1]) * n2 + other[2];
      if (diagonal[c] > 0.0) sum -= weights[a][((long)face[0] * faces[1] + face[1]) * faces[2] + face[2]] * p[c];
    }
  out[at.c] = diagonal[at.c] > 0.0 ? sum : 0.0;
}
