// Incomplete Cholesky factor without fill-in, of a CSR matrix.
#pragma once
#include <cstdint>

namespace SKYSOLVE_NAMESPACE {
namespace {

// IC(0) of a CSR matrix with sorted indices whose diagonal is stored: only the pivots change, L = (D + E) D^-1/2. A pivot that is lost
// (a pool that no Dirichlet value holds) is replaced by the matrix's own diagonal, or by 1.
void pivots(int64_t n, const int64_t* start, const int64_t* column, const double* value, double* pivot) {
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
void triangular(int64_t n, const int64_t* start, const int64_t* column, const double* value, const double* pivot,
                           const double* r, double* z) {
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

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
