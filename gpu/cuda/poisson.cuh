// Cells of a red-black multigrid for the 7-point Poisson operator, float32: what one thread (CUDA) or one SIMD lane (C++) does.
//
// Layout. A grid of (nx, ny, nz) cells has a halo of one plane and one row on each side. Along z a row is stored as two blocks of
// `pitch` values: cells of even z, then cells of odd z, one value of padding before each. All six neighbours of the cells of one
// colour of one row are then contiguous runs, so both colours of Gauss-Seidel, restriction and prolongation go without strides or
// masks. Values outside the fluid are kept at zero, which makes air (p = 0) and walls (no flux) need no case of their own.
//
// Bytes per cell that one V-cycle moves on the finest level, each array once on the way down and once on the way up:
//   plain faces (all open faces alike): one byte `code` instead of four stored coefficients: 2 (code + b + x), x written: 26 bytes
//   stored faces: 2 (3 faces + diagonal + b + x) + x: 56 bytes; coarser levels are of this kind and hold 1/7 of the cells
#pragma once

#include "portable.cuh"

namespace SKYSOLVE_NAMESPACE {

// A byte of the finest level: open faces along x, y, z (0 to 2 each) in bits 0-1, 2-3, 4-5; zero outside the fluid.
using Code = unsigned char;

struct Level {
  int n[3];           // cells along x, y, z
  int half, pitch;    // cells of even z in a row; values of a block
  long row, plane;    // values from row to row and from plane to plane
  int coarsens[3];    // whether the next level halves this axis
  int periodic[3];
  double weight[3];   // of a face, where faces are plain
  float over;         // relaxation of the first colour; of both where an odd periodic axis ties cells of one colour
  const Code* code;                       // plain faces; null if they are stored
  const float *face_x, *face_y, *face_z;  // stored faces: of the cell's upper sides
  const float* diagonal;
  const float *tie_x, *tie_y, *tie_z;  // as a coarser level: a quarter of the share that values across the face take in interpolation
  float *x, *b;
  float* r;  // residuals; on the GPU only, the CPU sums them up row by row
};

SKYSOLVE_INLINE long row_start(const Level& level, int i, int j) { return (i + 1) * level.plane + (j + 1) * level.row + 1; }
// The place of a cell; -1 and n lie in the halo.
SKYSOLVE_INLINE long cell_place(const Level& level, int i, int j, int k) {
  return row_start(level, i, j) + (k & 1) * level.pitch + (k < 0 ? -1 : k / 2);
}
// Block of a row that holds the cells of one colour.
SKYSOLVE_INLINE int parity(int i, int j, int colour) { return (i + j + colour) & 1; }

template <class Real> struct PlainFacesOf {
  const Code* code;
  long row, plane;
  Real wx, wy, wz;
  SKYSOLVE_INLINE PlainFacesOf(const Level& l)
      : code(l.code), row(l.row), plane(l.plane), wx(Real(l.weight[0])), wy(Real(l.weight[1])), wz(Real(l.weight[2])) {}
  SKYSOLVE_INLINE Real diagonal(long c) const {
    const int bits = code[c];
    return Real(bits & 3) * wx + Real((bits >> 2) & 3) * wy + Real((bits >> 4) & 3) * wz;
  }
  // `down` and `up` are the places of the neighbours along z
  template <class Value> SKYSOLVE_INLINE Real neighbours(const Value* x, long c, long down, long up) const {
    return wx * (Real(x[c - plane]) + Real(x[c + plane])) + wy * (Real(x[c - row]) + Real(x[c + row])) + wz * (Real(x[down]) + Real(x[up]));
  }
};
using PlainFaces = PlainFacesOf<float>;

struct StoredFaces {
  const float *fx, *fy, *fz, *d;
  long row, plane;
  SKYSOLVE_INLINE StoredFaces(const Level& l)
      : fx(l.face_x), fy(l.face_y), fz(l.face_z), d(l.diagonal), row(l.row), plane(l.plane) {}
  SKYSOLVE_INLINE float diagonal(long c) const { return d[c]; }
  SKYSOLVE_INLINE float neighbours(const float* x, long c, long down, long up) const {
    return fx[c - plane] * x[c - plane] + fx[c] * x[c + plane] + fy[c - row] * x[c - row] + fy[c] * x[c + row] + fz[down] * x[down] +
           fz[c] * x[up];
  }
};

enum Relax { FROM_ZERO, OVER, PLAIN };  // how a sweep sets a value

SKYSOLVE_INLINE float inverse_or_zero(float d) { return d > 0.0f ? 1.0f / d : 0.0f; }

// Places of the z neighbours of cell c, which lies in block p.
SKYSOLVE_INLINE long below(int pitch, int p, long c) { return p ? c - pitch : c + pitch - 1; }
SKYSOLVE_INLINE long above(int pitch, int p, long c) { return p ? c - pitch + 1 : c + pitch; }

template <class Faces> SKYSOLVE_INLINE float relaxed(const Faces& f, const float* x, const float* b, long c, long down, long up) {
  return inverse_or_zero(f.diagonal(c)) * (b[c] + f.neighbours(x, c, down, up));
}
template <class Faces> SKYSOLVE_INLINE float residual(const Faces& f, const float* x, const float* b, long c, long down, long up) {
  const float d = f.diagonal(c);
  return d > 0.0f ? b[c] - d * x[c] + f.neighbours(x, c, down, up) : 0.0f;
}

}  // namespace SKYSOLVE_NAMESPACE
