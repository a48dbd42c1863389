// GRU: r = sigmoid(a_r), z = sigmoid(a_z), h' = (1 - z) n + z h, where n is one of
//   reset after the product:   n = tanh(W_in x + b_in + r * (W_hn h + b_hn))     as in cuDNN and torch
//   reset before the product:  n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)     Cho et al. 2014, arXiv:1406.1078
//   simple, no reset gate:     n = tanh(W_in x + b_in + W_hn h + b_hn)           the introductory version of textbooks
// Options: other functions in place of sigmoid and tanh; clipped pre-activations.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

// a = input part of n, r, z, recurrent part u of n. n comes first so that the gates of the input product (n r z) and
// those of the recurrent product (r z u) are each contiguous in a gate row.
template <class Functions>
class GRUAfterCell : Functions {
 public:
  static constexpr int gates = 3, states = 1, phases = 1, split = 1, saved = 4, first = 3, unit_parameters = 0;
  static constexpr bool recurrent = true, carries_h = true, zeros_stay = !Functions::adjustable;
  static constexpr int order[] = {2, 0, 1};
  using Functions::Functions, Functions::gate, Functions::state;

  template <class V>
  void forward(const V* a, const V* s, const V*, V* s_new, V* save) const {
    const V r = gate(a[1]), z = gate(a[2]), u = a[3];
    const V a_n = r * u + a[0], n = state(a_n);
    s_new[0] = z * (s[0] - n) + n;
    save[0] = state.keep(a_n, n), save[1] = gate.keep(a[1], r), save[2] = gate.keep(a[2], z), save[3] = u;
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V*, const V* ds_new, V* da, V* ds) const {
    using T = Element<V>;
    const V n = state.recall(save[0]), r = gate.recall(save[1]), z = gate.recall(save[2]), u = save[3];
    const V dh = ds_new[0], da_n = state.back(dh * (T(1) - z), save[0], n);
    da[0] = da_n;
    da[1] = gate.back(da_n * u, save[1], r);
    da[2] = gate.back(dh * (s[0] - n), save[2], z);
    da[3] = da_n * r;
    ds[0] = dh * z;
  }
};

template <class Functions>
class GRUBeforeCell : Functions {
 public:
  static constexpr int gates = 3, states = 1, phases = 2, split = 0, saved = 3, first = 2, unit_parameters = 0;
  static constexpr bool recurrent = true, carries_h = true, zeros_stay = !Functions::adjustable;
  static constexpr int order[] = {0, 1, 2};
  using Functions::Functions, Functions::state;

  template <class V>
  void gate(const V* a, const V* s, V* operand, V* save) const {
    const V r = Functions::gate(a[0]), z = Functions::gate(a[1]);
    operand[0] = r * s[0];
    save[0] = Functions::gate.keep(a[0], r), save[1] = Functions::gate.keep(a[1], z);
  }
  template <class V>
  void forward(const V* a, const V* s, const V* save, V* s_new, V* save_last) const {
    const V z = Functions::gate.recall(save[1]), n = state(a[0]);
    s_new[0] = z * (s[0] - n) + n;
    save_last[0] = state.keep(a[0], n);
  }
  template <class V>
  void backward(const V* save, const V*, const V* ds_new, V* da_last, V* ds) const {
    using T = Element<V>;
    const V z = Functions::gate.recall(save[1]), n = state.recall(save[2]), dh = ds_new[0];
    da_last[0] = state.back(dh * (T(1) - z), save[2], n);
    ds[0] = dh * z;
  }
  template <class V>
  void backward_gate(const V* save, const V* s, const V* ds_new, const V* doperand, V* da, V* ds) const {
    const V r = Functions::gate.recall(save[0]), z = Functions::gate.recall(save[1]), n = state.recall(save[2]);
    da[0] = Functions::gate.back(doperand[0] * s[0], save[0], r);
    da[1] = Functions::gate.back(ds_new[0] * (s[0] - n), save[1], z);
    ds[0] = doperand[0] * r + ds[0];
  }
};

template <class Functions>
class GRUSimpleCell : Functions {
 public:
  static constexpr int gates = 2, states = 1, phases = 1, split = 0, saved = 2, first = 2, unit_parameters = 0;
  static constexpr bool recurrent = true, carries_h = true, zeros_stay = !Functions::adjustable;
  static constexpr int order[] = {0, 1};
  using Functions::Functions, Functions::gate, Functions::state;

  template <class V>
  void forward(const V* a, const V* s, const V*, V* s_new, V* save) const {
    const V z = gate(a[0]), n = state(a[1]);
    s_new[0] = z * (s[0] - n) + n;
    save[0] = gate.keep(a[0], z), save[1] = state.keep(a[1], n);
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V*, const V* ds_new, V* da, V* ds) const {
    using T = Element<V>;
    const V z = gate.recall(save[0]), n = state.recall(save[1]), dh = ds_new[0];
    da[0] = gate.back(dh * (s[0] - n), save[0], z);
    da[1] = state.back(dh * (T(1) - z), save[1], n);
    ds[0] = dh * z;
  }
};

using GRUAfter = GRUAfterCell<UsualFunctions>;
using GRUBefore = GRUBeforeCell<UsualFunctions>;
using GRUSimple = GRUSimpleCell<UsualFunctions>;
using GRUAfterOptions = GRUAfterCell<ChosenFunctions>;
using GRUBeforeOptions = GRUBeforeCell<ChosenFunctions>;
using GRUSimpleOptions = GRUSimpleCell<ChosenFunctions>;

}  // namespace fusedrnn::FUSEDRNN_ISA
