// One level of the multigrid: its arrays, its layout, and the halo of periodic axes.
#pragma once
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "../../cuda/poisson.cuh"

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

// An odd periodic axis ties cells of one colour. A sweep takes their old values from the halo, as Jacobi's method does: it stays
// symmetric if it begins from zero and hands both colours' residuals on, and it converges if it is damped.
bool has_odd_wrap(const Level& l) {
  for (int a = 0; a < 3; ++a)
    if (l.periodic[a] && l.n[a] % 2) return true;
  return false;
}
constexpr float DAMPED = 0.9f;

struct Grid {
  Level level{};
  long size = 0, cells = 0;
  Array<Code> code;
  Array<float> face[3], diagonal, tie[3], x, b;
  Array<float> excess[6];  // Dirichlet neighbours below and above along each axis; kept while the next level is made
  Array<float> sums;       // for restriction: six sums of residuals for each coarse cell, a ring of planes

  void shape(const int n[3], const int periodic[3], float over) {
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
    l.over = has_odd_wrap(l) ? DAMPED : over;
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
  long at(int i, int j, int k) const { return cell_place(level, i, j, k); }
};

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

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
