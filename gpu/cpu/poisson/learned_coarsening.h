// Learned corrections of a coarse level: factors on faces and Dirichlet values, ties of their own. solvers/learning/coarsening.py is
// the same in torch and trains the weights; tests/solvers/test_learned.py holds the two equal.
//
// Two networks of one hidden layer look at the two coarse cells beside a face, each seen from it: volume of the near and of the far
// half; open faces between the halves; Dirichlet faces of the near half towards the face, of either half away from it, and of the near
// and of the far half across; all as shares of what a full cell has. It must cost less than the iteration that it saves, so cells in
// open fluid share one entry, and what the networks said is kept by what they saw.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "grid.h"

namespace SKYSOLVE_NAMESPACE {
namespace {

constexpr int PER_CELL = 7, FEATURES = 2 * PER_CELL + 1, HIDDEN = 16;
constexpr float LARGEST = 1.5f;  // logarithm of the largest factor

template <int OUT> struct Perceptron {  // solvers/preconditioners/learned.py lays the weights out
  float in[FEATURES][HIDDEN], in_bias[HIDDEN], out[OUT][HIDDEN], out_bias[OUT];
  void add(const float* near, const float* far, float share, float* result) const {
    float hidden[HIDDEN];
    for (int h = 0; h < HIDDEN; ++h) hidden[h] = in_bias[h] + share * in[2 * PER_CELL][h];
    for (int f = 0; f < PER_CELL; ++f)
      for (int h = 0; h < HIDDEN; ++h) hidden[h] += near[f] * in[f][h] + far[f] * in[PER_CELL + f][h];
    for (int o = 0; o < OUT; ++o) {
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int h = 0; h < HIDDEN; ++h) sum += (hidden[h] > 0.0f ? hidden[h] : 0.0f) * out[o][h];
      result[o] += sum + out_bias[o];
    }
  }
};
struct CoarseningWeights {
  Perceptron<2> face;  // logarithm of the factor, and of the tie's odds; of both orders of the cells, added
  Perceptron<1> side;
};

inline float bounded(float value) { return std::exp(LARGEST * std::tanh(value)); }

// A coarse cell from the lower and from the upper side of an axis.
struct Seen {
  float low[PER_CELL], high[PER_CELL];
};

// What a network said of what it saw, as long as nothing else falls on the same place.
class Memory {
 public:
  struct Said {
    float seen[FEATURES];
    float value[2];
  };
  template <class Ask> const float* find(const float* near, const float* far, float share, Ask ask) {
    float seen[FEATURES];
    std::memcpy(seen, near, PER_CELL * sizeof(float)), std::memcpy(seen + PER_CELL, far, PER_CELL * sizeof(float));
    seen[2 * PER_CELL] = share;
    uint32_t hash = 0, bits[FEATURES];
    std::memcpy(bits, seen, sizeof(seen));
    for (uint32_t word : bits) hash = (hash ^ word) * 0x9E3779B1u, hash ^= hash >> 15;
    Said& said = places_[hash % PLACES];
    if (std::memcmp(said.seen, seen, sizeof(seen)) != 0) {
      std::memcpy(said.seen, seen, sizeof(seen));
      ask(said.value);
    }
    return said.value;
  }

 private:
  static constexpr size_t PLACES = 1024;
  std::vector<Said> places_ = std::vector<Said>(PLACES, Said{{-1.0f}, {0.0f}});  // no volume is negative
};

class Corrections {
 public:
  Corrections(const CoarseningWeights& weights, const double unit[3]) : weights_(weights) {
    for (int a = 0; a < 3; ++a) unit_[a] = float(unit[a]);
  }

  // To be called once for each coarse level, from the finest on; the coarse level's halo and diagonal are to be finished afterwards.
  template <class Source> void correct(const Source& from, const Grid& fine, Grid& coarse) {
    const Level& l = fine.level;
    int halved = 0;
    for (int a = 0; a < 3; ++a) halved += l.coarsens[a];
    cells_ = float(1 << (halved - 1));
    look(from, fine, coarse);
    for (int a = 0; a < 3; ++a)
      if (l.coarsens[a]) correct_faces(coarse, a), correct_sides(coarse, a);
    for (int a = 0; a < 3; ++a) unit_[a] *= l.coarsens[a] ? cells_ / 2 : 2 * cells_;
    is_finest_ = false;
  }

 private:
  const CoarseningWeights& weights_;
  float unit_[3];              // an open face of the fine level
  float cells_ = 0.0f;         // fine cells in half a coarse one
  std::vector<float> volume_;  // of the fine level's cells; not stored for the finest one
  bool is_finest_ = true;
  std::vector<int> entry_;     // of each coarse cell in `seen_`; 0 is open fluid on the finest level
  std::vector<Seen> seen_[3];  // by axis

  static long number(const Level& l, int i, int j, int k) { return (long(i) * l.n[1] + j) * l.n[2] + k; }

  template <class Source> void look(const Source& from, const Grid& fine, const Grid& coarse) {
    const Level &l = fine.level, &c = coarse.level;
    const int count[3] = {l.coarsens[0] ? 2 : 1, l.coarsens[1] ? 2 : 1, l.coarsens[2] ? 2 : 1};
    std::vector<float> merged(coarse.cells);
    entry_.assign(coarse.cells, 0);
    for (auto& seen : seen_) seen.assign(1, Seen{{1, 1, 1, 0, 0, 0, 0}, {1, 1, 1, 0, 0, 0, 0}});
    long own = 0;
    for (int I = 0; I < c.n[0]; ++I)
      for (int J = 0; J < c.n[1]; ++J)
        for (int K = 0; K < c.n[2]; ++K, ++own) {
          float total = 0.0f, volume[8];
          int child = 0;
          for (int di = 0; di < count[0]; ++di)
            for (int dj = 0; dj < count[1]; ++dj)
              for (int dk = 0; dk < count[2]; ++dk, ++child) {
                const int i = count[0] * I + di, j = count[1] * J + dj, k = count[2] * K + dk;
                const bool inside = i < l.n[0] && j < l.n[1] && k < l.n[2];
                volume[child] = !inside ? 0.0f : is_finest_ ? float(from.fluid(i, j, k)) : volume_[number(l, i, j, k)];
                total += volume[child];
              }
          merged[own] = total / (2 * cells_);
          if (is_finest_ && merged[own] == 1.0f && !is_held(coarse, I, J, K)) continue;
          entry_[own] = int(seen_[0].size());
          describe(from, l, I, J, K, count, volume);
        }
    volume_.swap(merged);
  }
  static bool is_held(const Grid& g, int I, int J, int K) {
    const long at = g.at(I, J, K);
    for (const auto& e : g.excess)
      if (e.get()[at] > 0.0f) return true;
    return false;
  }

  template <class Source> void describe(const Source& from, const Level& l, int I, int J, int K, const int count[3], const float* volumes) {
    float volume[3][2] = {}, middle[3] = {}, down[3][2] = {}, up[3][2] = {}, across[3][2] = {};
    int child = 0;
    for (int di = 0; di < count[0]; ++di)
      for (int dj = 0; dj < count[1]; ++dj)
        for (int dk = 0; dk < count[2]; ++dk, ++child) {
          const int i = count[0] * I + di, j = count[1] * J + dj, k = count[2] * K + dk, half[3] = {i & 1, j & 1, k & 1};
          for (int a = 0; a < 3; ++a) volume[a][half[a]] += volumes[child];
          if (i >= l.n[0] || j >= l.n[1] || k >= l.n[2] || !from.fluid(i, j, k)) continue;
          float below[3], above[3], both = 0.0f;
          for (int a = 0; a < 3; ++a) {
            below[a] = from.excess(2 * a, i, j, k), above[a] = from.excess(2 * a + 1, i, j, k);
            both += below[a] + above[a];
          }
          for (int a = 0; a < 3; ++a) {
            const int h = half[a];
            if (!h) middle[a] += from.face(a, i, j, k);
            down[a][h] += below[a], up[a][h] += above[a], across[a][h] += both - below[a] - above[a];
          }
        }
    for (int a = 0; a < 3; ++a) {
      const float one = 1 / cells_, along = 1 / (cells_ * unit_[a]), beside = 1 / (cells_ * (unit_[(a + 1) % 3] + unit_[(a + 2) % 3]));
      const float low = volume[a][0] * one, high = volume[a][1] * one, inner = up[a][0] + down[a][1], open = middle[a] * along;
      const float low_across = across[a][0] * beside, high_across = across[a][1] * beside;
      seen_[a].push_back({{low, high, open, down[a][0] * along, (up[a][1] + inner) * along, low_across, high_across},
                          {high, low, open, up[a][1] * along, (down[a][0] + inner) * along, high_across, low_across}});
    }
  }

  void correct_faces(Grid& coarse, int a) {
    const Level& c = coarse.level;
    const Seen nothing{};
    const float whole = unit_[a] * cells_ / 2;  // an open coarse face
    const int last[3] = {c.n[0], c.n[1], c.n[2]};
    Memory memory;
    const auto said = [&](const Seen& below, const Seen& above, float share) {
      return memory.find(below.high, above.low, share, [&](float* value) {
        float both[2] = {0, 0};
        weights_.face.add(below.high, above.low, share, both), weights_.face.add(above.low, below.high, share, both);
        value[0] = bounded(both[0]), value[1] = 2 / (1 + std::exp(-both[1]));
      });
    };
    const float of_open[2] = {said(seen_[a][0], seen_[a][0], 1.0f)[0], said(seen_[a][0], seen_[a][0], 1.0f)[1]};
    for (int I = -(a == 0); I < c.n[0]; ++I)
      for (int J = -(a == 1); J < c.n[1]; ++J)
        for (int K = -(a == 2); K < c.n[2]; ++K) {
          int low[3] = {I, J, K}, high[3] = {I + (a == 0), J + (a == 1), K + (a == 2)};
          const bool is_first = low[a] < 0;
          if (c.periodic[a]) low[a] = (low[a] + last[a]) % last[a], high[a] = high[a] % last[a];
          const int below = low[a] < 0 ? -1 : entry_[number(c, low[0], low[1], low[2])];
          const int above = high[a] == last[a] ? -1 : entry_[number(c, high[0], high[1], high[2])];
          float& face = coarse.face[a].get()[coarse.at(low[0], low[1], low[2])];
          const float* value = of_open;
          if (below != 0 || above != 0)
            value = said(below < 0 ? nothing : seen_[a][below], above < 0 ? nothing : seen_[a][above], below < 0 ? 0.0f : face / whole);
          coarse.tie[a].get()[coarse.at(I, J, K)] *= value[1];
          if (!is_first) face *= value[0];  // a periodic axis' first face is its last one
        }
  }

  void correct_sides(Grid& coarse, int a) {
    const Level& c = coarse.level;
    const float whole = unit_[a] * cells_ / 2;
    Memory memory;
    long own = 0;
    for (int I = 0; I < c.n[0]; ++I)
      for (int J = 0; J < c.n[1]; ++J)
        for (int K = 0; K < c.n[2]; ++K, ++own) {
          if (is_finest_ && entry_[own] == 0) continue;
          const Seen& seen = seen_[a][entry_[own]];
          for (int side = 0; side < 2; ++side) {
            float& held = coarse.excess[2 * a + side].get()[coarse.at(I, J, K)];
            if (held == 0.0f) continue;
            const float *near = side ? seen.high : seen.low, *far = side ? seen.low : seen.high;
            held *= memory.find(near, far, held / whole, [&](float* value) {
              value[0] = 0.0f;
              weights_.side.add(near, far, held / whole, value);
              value[0] = bounded(value[0]);
            })[0];
          }
        }
  }
};

}  // namespace
}  // namespace SKYSOLVE_NAMESPACE
