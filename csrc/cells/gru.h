// r = sigmoid(a_r), z = sigmoid(a_z), h' = (1 - z) n + z h, and
//   reset after  the matmul: n = tanh(W_in x + b_in + r * (W_hn h + b_hn))     as in cuDNN and torch
//   reset before the matmul: n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)     Cho et al. 2014, arXiv:1406.1078
#pragma once

#include "../kernels/math.h"
#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

// a = n's input part, r, z, n's recurrent part u. n comes first so that the input's gates (n r z) and the recurrent
// ones (r z u) are each contiguous in a gate row.
struct GRUAfter {
  static constexpr int gates = 3, states = 1, phases = 1, split = 1, saved = 4, first = 3;
  static constexpr bool carries_h = true;
  static constexpr int order[] = {2, 0, 1};

  template <class V>
  static void forward(const V* a, const V* s, V* s_new, V* save) {
    const V r = sigmoid(a[1]), z = sigmoid(a[2]), u = a[3];
    const V n = tanh(r * u + a[0]);
    s_new[0] = z * (s[0] - n) + n;
    save[0] = n, save[1] = r, save[2] = z, save[3] = u;
  }
  template <class V>
  static void backward(const V* save, const V* s, const V*, const V* ds_new, V* da, V* ds) {
    using T = Element<V>;
    const V n = save[0], r = save[1], z = save[2], u = save[3], dh = ds_new[0];
    const V da_n = dh * (T(1) - z) * (T(1) - n * n);
    da[0] = da_n;
    da[1] = da_n * u * r * (T(1) - r);
    da[2] = dh * (s[0] - n) * z * (T(1) - z);
    da[3] = da_n * r;
    ds[0] = dh * z;
  }
};

struct GRUBefore {
  static constexpr int gates = 3, states = 1, phases = 2, split = 0, saved = 3, first = 2;
  static constexpr bool carries_h = true;
  static constexpr int order[] = {0, 1, 2};

  template <class V>
  static void gate(const V* a, const V* s, V* operand, V* save) {
    const V r = sigmoid(a[0]), z = sigmoid(a[1]);
    operand[0] = r * s[0];
    save[0] = r, save[1] = z;
  }
  template <class V>
  static void forward(const V* a, const V* s, const V* save, V* s_new, V* save_last) {
    const V z = save[1], n = tanh(a[0]);
    s_new[0] = z * (s[0] - n) + n;
    save_last[0] = n;
  }
  template <class V>
  static void backward(const V* save, const V*, const V* ds_new, V* da_last, V* ds) {
    using T = Element<V>;
    const V z = save[1], n = save[2], dh = ds_new[0];
    da_last[0] = dh * (T(1) - z) * (T(1) - n * n);
    ds[0] = dh * z;
  }
  template <class V>
  static void backward_gate(const V* save, const V* s, const V* ds_new, const V* doperand, V* da, V* ds) {
    using T = Element<V>;
    const V r = save[0], z = save[1], n = save[2], dh = ds_new[0];
    da[0] = doperand[0] * s[0] * r * (T(1) - r);
    da[1] = dh * (s[0] - n) * z * (T(1) - z);
    ds[0] = doperand[0] * r + ds[0];
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
