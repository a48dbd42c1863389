// i, f, o = sigmoid(a), g = tanh(a); c' = f c + i g, h' = o tanh(c').
// Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000.
#pragma once

#include "../kernels/math.h"
#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

struct LSTM {
  static constexpr int gates = 4, states = 2, phases = 1, split = 0, saved = 4, first = 4;
  static constexpr bool carries_h = false;
  static constexpr int order[] = {0, 1, 2, 3};

  template <class V>
  static void forward(const V* a, const V* s, V* s_new, V* save) {
    const V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
    const V c = f * s[1] + i * g;
    s_new[0] = o * tanh(c);
    s_new[1] = c;
    save[0] = i, save[1] = f, save[2] = g, save[3] = o;
  }
  template <class V>
  static void backward(const V* save, const V* s, const V* s_new, const V* ds_new, V* da, V* ds) {
    using T = Element<V>;
    const V i = save[0], f = save[1], g = save[2], o = save[3];
    const V tanh_c = tanh(s_new[1]);  // cheaper to compute again than to keep
    const V dh = ds_new[0], dc = dh * o * (T(1) - tanh_c * tanh_c) + ds_new[1];
    da[0] = dc * g * i * (T(1) - i);
    da[1] = dc * s[1] * f * (T(1) - f);
    da[2] = dc * i * (T(1) - g * g);
    da[3] = dh * tanh_c * o * (T(1) - o);
    ds[1] = dc * f;
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
