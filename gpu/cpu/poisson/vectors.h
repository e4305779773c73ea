// Vectors of the fluid cells' values, and grids in C order.
#pragma once
#include "grid.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

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

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
