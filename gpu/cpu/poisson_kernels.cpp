// Multigrid and mixed-precision conjugate gradients for the Poisson equation on CPUs, one instruction set (gpu/cuda/poisson.cuh).
//
// What bounds it: memory. So a pass goes plane by plane, and every stage of a half-cycle (sweeps of both colours, residual,
// restriction) follows the one before it by one plane: an array is read once and written once however many stages there are.
#include <algorithm>
#include <cstdint>

#include "poisson/conjugate_gradients.h"
#include "poisson/incomplete_cholesky.h"
#include "poisson/levels.h"

#define CONCATENATE_(a, b) a##_##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) auto CONCATENATE(name, SKYSOLVE_NAMESPACE)

using namespace SKYSOLVE_NAMESPACE;

// `cells`: flags with a halo, (nx+2, ny+2, nz+2) in C order. `faces`, `excess`: null where open faces all have `weight`; else three
// and six arrays (nx, ny, nz): upper faces of each cell, and what Dirichlet neighbours below and above add along each axis.
EXPORT(poisson_create)(const int* n, const int* periodic, const double* weight, const uint8_t* cells, const float* const* faces,
                       const float* const* excess, const Settings* settings, const CoarseningWeights* learned) -> Hierarchy* {
  auto* made = new Hierarchy;
  made->settings = *settings;
  made->grids.emplace_back();
  Grid& g = made->grids[0];
  g.shape(n, periodic, settings->over_fine);
  g.code = Array<Code>(g.size);
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
  build_levels(*made, faces ? nullptr : &flags, weight, learned);
  return made;
}

// What the GPU takes over (gpu/poisson_on_gpu.py): a level as it is here, and how many values its arrays hold.
EXPORT(poisson_count)(const Hierarchy* h) -> int { return int(h->grids.size()); }
EXPORT(poisson_level)(const Hierarchy* h, int number, Level* level) -> int64_t {
  *level = h->grids[number].level;
  return h->grids[number].size;
}
EXPORT(poisson_level_bytes)() -> int64_t { return sizeof(Level); }
// The coarsest level's inverse and the places of its cells, where they are asked for; how many cells it has.
EXPORT(poisson_bottom)(const Hierarchy* h, float* inverse, int64_t* cells) -> int64_t {
  if (inverse) std::memcpy(inverse, h->bottom_inverse.data(), h->bottom_inverse.size() * sizeof(float));
  if (cells) std::copy(h->bottom_cells.begin(), h->bottom_cells.end(), cells);
  return int64_t(h->bottom_cells.size());
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
EXPORT(poisson_solve)(Hierarchy* h, const double* right, double* result, double scale, double tolerance, int maxiter, int threads, int capacity,
                      double* history, Report* report) -> void {
  Grid& g = h->grids[0];
  h->p = Array<float>(g.size), h->q = Array<float>(g.size), h->change = Array<float>(g.size), h->solution = Array<double>(g.size), h->right = Array<double>(g.size);
  for_rows(g, [&](int i, int j) { load_row(g, result, h->solution.get(), 1 / scale, i, j); });
  wrap(g, h->solution.get());
  std::memset(g.level.x, 0, g.size * sizeof(float));
  Outer outer(*h, threads);
#pragma omp parallel num_threads(threads)
  solve(outer, right, result, tolerance / scale, maxiter, capacity, history, report, scale);
}

EXPORT(poisson_pivots)(int64_t n, const int64_t* start, const int64_t* column, const double* value, double* pivot) -> void {
  pivots(n, start, column, value, pivot);
}

EXPORT(poisson_triangular)(int64_t n, const int64_t* start, const int64_t* column, const double* value, const double* pivot,
                           const double* r, double* z) -> void {
  triangular(n, start, column, value, pivot, r, z);
}
