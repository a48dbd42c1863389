// The normed form: layer normalisation of both products of a step, and of an LSTM's c on its way to h.
// Ba, Kiros & Hinton 2016, arXiv:1607.06450; the equations are in python/fusedrnn/reference/layer_norm.py.
//
//   forward    products of x and of h, separately -> mean and rate of each row -> cell -> (LSTM) the same for c, then h
//   backward   (LSTM) dh -> dc; da; from da the gradients of both products, minus the components along mean and
//              variance; the rest as in the other forms
//
// The units of a row belong to several threads. So each block of units stores its share of a sum (for a variance: the
// block's mean and the sum of squares about it, which can be combined without loss of digits); after a barrier every
// thread adds up the shares of all rows, in the order of the blocks. So no bit depends on which thread computed which
// share.
//
// All gates are normalised together, except a split gate, which is normalised by itself. Padded units have zero gains
// and biases; only the sums of squares have to exclude them.
#pragma once

#include "../math/math.h"
#include "forms.h"
#include "pack.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kMomentRows = 64;  // rows with moments on the stack at a time; a multiple of any vector length

template <class T>
struct Moments {
  alignas(64) T mean[kMomentRows];
  alignas(64) T rate[kMomentRows];  // one over the standard deviation
};

// Groups of gates that are normalised together. The columns of x start with the split gate, the columns of h end with
// it (cells/gru.h).
template <class Cell>
struct NormGroups {
  static constexpr int count = 1 + Cell::split;
  static constexpr int of_x(int column) { return column < Cell::split ? 1 : 0; }
  static constexpr int of_h(int column) { return column >= Cell::gates - Cell::split ? 1 : 0; }
  static constexpr int gates(int group) { return group == 0 ? Cell::gates - Cell::split : Cell::split; }
};

template <class T>
inline Index real_units(Index block, Index H) {
  const Index left = H - block * kLanes<T>;
  return left < kLanes<T> ? left : kLanes<T>;
}

// The shares of one block: its mean, and the sum of squares about that mean. `values` has N vectors in each of `count`
// rows.
template <class T, int N>
[[gnu::noinline]] void share_moments(const T* values, Index row, Index step, Index count, Index units, T* means,
                                     T* squares) {
  constexpr Index W = kLanes<T>;
  T lanes[W];
  for (Index l = 0; l < W; ++l) lanes[l] = l < units ? T(1) : T(0);
  const Vec<T> real = load(lanes);
  const T each = T(1) / static_cast<T>(N * units);
  for (Index b = 0; b < count; ++b, values += row) {
    Vec<T> v[N], sum{}, square{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) sum += v[i] = load(values + i * step);
    const T mean = sum_lanes<T>(sum) * each;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Vec<T> distance = (v[i] - mean) * real;
      square += distance * distance;
    }
    means[b] = mean, squares[b] = sum_lanes<T>(square);
  }
}

// Mean and rate of `count` rows, at most kMomentRows, from the shares of all blocks: [means, squares][block][row].
template <class T>
[[gnu::noinline]] void put_together(const T* shares, Index blocks, Index stride, Index gates, Index H, T eps,
                                    Index count, Moments<T>& to) {
  constexpr Index W = kLanes<T>;
  const T* squares = shares + blocks * stride;
  const T all = static_cast<T>(gates * H);
  for (Index b = 0; b < count; b += W) {
    Vec<T> mean{}, square{};
    for (Index k = 0; k < blocks; ++k)
      mean += static_cast<T>(gates * real_units<T>(k, H)) * load_partial(shares + k * stride + b, count - b);
    mean = mean / all;
    for (Index k = 0; k < blocks; ++k) {
      const Vec<T> distance = load_partial(shares + k * stride + b, count - b) - mean;
      square += static_cast<T>(gates * real_units<T>(k, H)) * distance * distance +
                load_partial(squares + k * stride + b, count - b);
    }
    store(to.mean + b, mean);
    store(to.rate + b, T(1) / square_root(square / all + eps));
  }
}

// Sums of shares over the blocks, divided by `all`: [block][row] -> [row].
template <class T>
[[gnu::noinline]] void add_shares(const T* shares, Index blocks, Index stride, Index all, Index count, T* to) {
  for (Index b = 0; b < count; b += kLanes<T>) {
    Vec<T> sum{};
    for (Index k = 0; k < blocks; ++k) sum += load_partial(shares + k * stride + b, count - b);
    store(to + b, sum / static_cast<T>(all));
  }
}

// The gradient of a normalised row, without the components that would change the row's mean or variance.
template <class T>
struct NormSums {
  alignas(64) T mean[4][kMomentRows];
  alignas(64) T along[4][kMomentRows];

  void add(int to, const T* shares, int which, Index blocks, Index stride, Range rows, Index all) {
    const T* from = shares + 2 * which * blocks * stride + rows.begin;
    add_shares(from, blocks, stride, all, rows.end - rows.begin, mean[to]);
    add_shares(from + blocks * stride, blocks, stride, all, rows.end - rows.begin, along[to]);
  }
  Vec<T> differentiated(int which, Index row, Vec<T> dnormal, Vec<T> normal, T rate) const {
    return rate * (dnormal - mean[which][row] - normal * along[which][row]);
  }
};

// ---- weights --------------------------------------------------------------------------------------

// Packs gains and biases in the order of the packed columns, with zeros for padded units.
template <class T, class Cell>
void pack_norm(const RawNorm<T>& raw, const Norm<T>& packed, Index H) {
  const Phase<T> phase = CellPhase<T, Cell, 0>(H);
  const auto place = [&](const T* from, T* to, Product of) {
    zero(to, Cell::gates * phase.padded);
    for (Index p = 0; from && p < phase.panels.count; ++p)
      for_each_column(phase, p, of, [&](Index row, Index c) { to[phase.weight_offset(p, 1) + c] = from[row]; });
  };
  place(raw.gain_ih, packed.gain_x, kOfX);
  place(raw.b_ih, packed.bias_x, kOfX);
  place(raw.gain_hh, packed.gain_h, kOfH);
  place(raw.b_hh, packed.bias_h, kOfH);
  if constexpr (Cell::states == 2) {
    zero(packed.gain_c, phase.padded), zero(packed.bias_c, phase.padded);
    __builtin_memcpy(packed.gain_c, raw.gain_c, static_cast<size_t>(H) * sizeof(T));
    __builtin_memcpy(packed.bias_c, raw.bias_c, static_cast<size_t>(H) * sizeof(T));
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
