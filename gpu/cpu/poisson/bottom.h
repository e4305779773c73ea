// The coarsest level: a stored inverse.
#pragma once
#include "hierarchy.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

// The components of a dense symmetric matrix: the first cell of each cell's component.
std::vector<size_t> components(const std::vector<double>& A, size_t n) {
  std::vector<size_t> first(n), left;
  std::vector<bool> seen(n, false);
  for (size_t start = 0; start < n; ++start) {
    if (seen[start]) continue;
    left.push_back(start), seen[start] = true;
    while (!left.empty()) {
      const size_t row = left.back();
      left.pop_back(), first[row] = start;
      for (size_t column = 0; column < n; ++column)
        if (!seen[column] && A[row * n + column] != 0.0) seen[column] = true, left.push_back(column);
    }
  }
  return first;
}

// Pools that no Dirichlet value holds: a constant then has no response. It is given the diagonal's, so that the inverse treats the
// others as the pseudoinverse does; were one cell held instead, rounding's constant part would be amplified by the pool's length squared.
void hold_pools(std::vector<double>& A, size_t n) {
  const std::vector<size_t> first = components(A, n);
  std::vector<double> rows(n, 0.0), diagonal(n, 0.0), count(n, 0.0);
  for (size_t i = 0; i < n; ++i) {
    diagonal[first[i]] += A[i * n + i], count[first[i]] += 1;
    for (size_t j = 0; j < n; ++j) rows[first[i]] += A[i * n + j];
  }
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      const size_t pool = first[i];
      const double typical = diagonal[pool] > 0.0 ? diagonal[pool] / (count[pool] * count[pool]) : 1.0;  // 0: its own neighbour on all sides
      if (first[j] == pool && rows[pool] <= 1e-5 * diagonal[pool]) A[i * n + j] += typical;
    }
}

// Dense inverse by L D L^T; a pivot that is lost to rounding is left out.
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
  hold_pools(A, n);
  std::vector<double> L(n * n, 0.0), D(n, 0.0);
  for (size_t j = 0; j < n; ++j) {
    double pivot = A[j * n + j];
    for (size_t k = 0; k < j; ++k) pivot -= L[j * n + k] * L[j * n + k] * D[k];
    D[j] = pivot > 1e-7 * A[j * n + j] ? pivot : 0.0;
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

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
