// Our own reading of the algorithm of Plesner, Sorensen & Hauberg (ICS 2024, arXiv 2409.08729), written from its description; not the
// authors' code. Expansions for large argument (DLMF 10.40.1-2) and large order (DLMF 10.41.3-4) in boxes of (v, x), a power series
// for I and Rothwell's integral (2006, Commun. Numer. Methods Eng. 24, 237, eq. 26-27) for K in between. Scalar, float64, as fast as the
// compiler makes it (benchmarks/log_bessel.py compiles it with -O3 -march=native).
#include <cmath>
#include <vector>

namespace {

// U_k(p) of DLMF 10.41.9, coefficients of p^k, p^(k+2), ..., p^(3k)
struct DebyePolynomials {
  std::vector<std::vector<double>> u{{1.0}};
  DebyePolynomials() {
    std::vector<long double> now{1.0L};
    for (int k = 0; k < 13; k++) {
      std::vector<long double> next(now.size() + 1, 0.0L);
      for (size_t j = 0; j < now.size(); j++) {
        long double power = k + 2 * j;
        next[j] += now[j] * (power / 2 + 1 / (8 * (power + 1)));
        next[j + 1] -= now[j] * (power / 2 + 5 / (8 * (power + 3)));
      }
      now = next;
      u.emplace_back(now.begin(), now.end());
    }
  }
};
const DebyePolynomials debye;

double large_argument(double v, double x, int terms, bool first) {
  double term = 1, sum = 1, m = 4 * v * v;
  for (int k = 1; k <= terms; k++) {
    term *= (first ? -1 : 1) * (m - (2.0 * k - 1) * (2.0 * k - 1)) / (8.0 * k * x);
    sum += term;
  }
  double log_sum = std::log(std::fabs(sum));
  return first ? x - 0.5 * std::log(2 * M_PI * x) + log_sum : 0.5 * std::log(M_PI / (2 * x)) - x + log_sum;
}

double large_order(double v, double x, int terms, bool first) {
  double z = x / v, q = std::sqrt(1 + z * z), p = 1 / q, eta = q + std::log(z / (1 + q)), sum = 1, power = 1;
  for (int k = 1; k <= terms; k++) {
    power *= (first ? 1 : -1) * p / v;
    double value = 0;
    for (int j = k; j >= 0; j--) value = value * p * p + debye.u[k][j];
    sum += power * value;
  }
  double rest = -0.25 * std::log1p(z * z) + std::log(std::fabs(sum));
  return first ? -0.5 * std::log(2 * M_PI * v) + v * eta + rest : 0.5 * std::log(M_PI / (2 * v)) - v * eta + rest;
}

double power_series(double v, double x) {
  double logs[41], top = -INFINITY, sum = 0;
  for (int k = 0; k <= 40; k++) {
    logs[k] = 2 * k * std::log(x / 2) - std::lgamma(k + 1.0) - std::lgamma(k + v + 1);
    top = std::fmax(top, logs[k]);
  }
  for (double one : logs) sum += std::exp(one - top);
  return v * std::log(x / 2) + top + std::log(sum);
}

double rothwell(double v, double x) {
  const int n = 8, nodes = 600;
  double beta = 2.0 * n / (2 * v + 1), sum = 0;
  for (int i = 0; i <= nodes; i++) {
    double u = (double)i / nodes, f = 0;
    if (u > 0) {
      double ub = std::pow(u, beta);
      f = beta * std::exp(-ub) * std::pow(2 * x + ub, v - 0.5) * std::pow(u, n - 1) +
          std::exp(-1 / u) * std::pow(u, -2 * v - 1) * std::pow(2 * x * u + 1, v - 0.5);
    }
    sum += f * (i == 0 || i == nodes ? 1 : i % 2 ? 4 : 2);
  }
  return 0.5 * std::log(M_PI) - std::lgamma(v + 0.5) - v * std::log(2 * x) - x + std::log(sum / (3 * nodes));
}

double published(double v, double x, bool first) {
  double log_x = std::log(x), log_v = std::log(v);
  if ((x > 1400 && v < 3.05) || (0.6229 * log_x - 3.2318 > log_v && v > 3.1)) return large_argument(v, x, 3, first);
  if ((x > 30 && v < 15.3919) || (0.5113 * log_x + 0.7939 > log_v && x > 59.6925)) return large_argument(v, x, 20, first);
  if ((x > 274.2377 && v > 0.3) || v > 163.6993) return large_order(v, x, 4, first);
  if ((x > 84.4153 && v > 0.46) || v > 56.9971) return large_order(v, x, 6, first);
  if ((x > 35.9074 && v > 0.6) || v > 20.1534) return large_order(v, x, 9, first);
  if ((x > 19.6931 && v > 0.7) || v > 12.6964) return large_order(v, x, 13, first);
  return first ? power_series(v, x) : rothwell(v, x);
}

}  // namespace

extern "C" void published_log_i(const double* v, const double* x, double* out, long n) {
  for (long i = 0; i < n; i++) out[i] = published(v[i], x[i], true);
}
extern "C" void published_log_k(const double* v, const double* x, double* out, long n) {
  for (long i = 0; i < n; i++) out[i] = published(v[i], x[i], false);
}
