// RG-LRU: r = sigmoid(a_r), i = sigmoid(a_i), a = exp(-8 softplus(Lambda) r); h' = a h + sqrt(1 - a^2) i x. De et al.
// 2024, "Griffin", arXiv:2402.19427; python/fusedrnn/reference/cells/rglru.py is the same in NumPy. RGLRU takes x
// itself, which needs as many inputs as units; RGLRUWide takes a third product of x.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <bool SKIP>
class RGLRUCell {
 public:
  static constexpr bool recurrent = false;
  static constexpr int sharing = 1;
  static constexpr int gates = SKIP ? 2 : 3, states = 1, skip = SKIP, saved = 3, unit_parameters = 1;  // Lambda
  static constexpr int order[] = {0, 1, 2};                                                            // r, i, x

  inline explicit RGLRUCell(const CellOptions&) {}

  // The exponent's factor 8 softplus(Lambda), once for all steps; and the gradient of Lambda from that of the factor.
  template <class V>
  void prepare(V* p) const {
    using T = Element<V>;
    p[0] = T(8) * (max(V{}, p[0]) + log1p(exp(-magnitude(p[0]))));
  }
  template <class V>
  void finish(const V* p, V* dp) const {
    dp[0] = dp[0] * Element<V>(8) * sigmoid(p[0]);
  }

  template <class V>
  void forward(const V* a, const V* s, const V* p, V* s_new, V* save) const {
    const V r = sigmoid(a[0]), i = sigmoid(a[1]), u = p[0] * r;
    s_new[0] = exp(-u) * s[0] + write(u) * (i * a[2]);
    save[0] = r, save[1] = i, save[2] = a[2];
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V* p, const V* ds_new, V* da, V* ds, V* dp) const {
    using T = Element<V>;
    const V r = save[0], i = save[1], x = save[2], u = p[0] * r, dh = ds_new[0];
    const V decay = exp(-u), w = write(u);
    // d sqrt(1 - a^2) / du = a^2 / sqrt(1 - a^2); as in the authors' code, the slope of the square root stays below
    // 1000
    const V slope = decay * decay * min(splat(T(2000)), T(1) / w);
    const V du = dh * (slope * (i * x) - decay * s[0]);
    da[0] = du * p[0] * r * (T(1) - r);
    da[1] = dh * w * x * i * (T(1) - i);
    da[2] = dh * w * i;
    ds[0] = dh * decay;
    dp[0] = du * r + dp[0];
  }

 private:
  // sqrt(1 - e^-2u): 1 - e^-2u = 2 t / (1 + t) with t = tanh(u), without the cancellation.
  template <class V>
  static V write(V u) {
    const V t = tanh(u);
    return square_root((t + t) / (t + Element<V>(1)));
  }
};

using RGLRU = RGLRUCell<true>;
using RGLRUWide = RGLRUCell<false>;

}  // namespace fusedrnn::FUSEDRNN_ISA
