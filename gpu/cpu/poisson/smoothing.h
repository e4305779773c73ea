// Red-black sweeps and residuals, row by row.
#pragma once
#include "grid.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

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

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
