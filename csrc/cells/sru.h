// SRU: f = sigmoid(a_f + v_f c), r = sigmoid(a_r + v_r c); c' = f c + (1 - f) a_x, h' = r c' + (1 - r) highway x. Lei
// et al. 2018, "Simple recurrent units for highly parallelizable recurrence", arXiv:1709.02755;
// python/fusedrnn/reference/cells/sru.py is the same in NumPy. SRU takes x itself on the highway,
// which needs as many inputs as units; SRUWide takes a fourth product of x, without the factor.
#pragma once

#include <cmath>

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <bool SKIP>
class SRUCell : public ElementwiseCell {
 public:
  static constexpr int gates = SKIP ? 3 : 4, states = 2, skip = SKIP, saved = 4, unit_parameters = 2;  // v_f, v_r
  static constexpr int order[] = {0, 1, 2, 3};  // candidate, f, r, highway

  // Computed here and not in Python, because a kernel runs with its own rounding mode and not with the caller's.
  inline explicit SRUCell(const CellOptions& options) : highway_(std::sqrt(1 + 2 * std::exp(options.highway_bias))) {}

  template <class V>
  void forward(const V* a, const V* s, const V* p, V* s_new, V* save) const {
    const V f = sigmoid(p[0] * s[1] + a[1]), r = sigmoid(p[1] * s[1] + a[2]);
    const V c = f * (s[1] - a[0]) + a[0], x = a[3] * highway<V>();
    s_new[1] = c;
    s_new[0] = r * (c - x) + x;
    save[0] = a[0], save[1] = f, save[2] = r, save[3] = a[3];
  }
  template <class V>
  void backward(const V* save, const V* s, const V* s_new, const V* p, const V* ds_new, V* da, V* ds, V* dp) const {
    using T = Element<V>;
    const V f = save[1], r = save[2], dh = ds_new[0], dc = dh * r + ds_new[1];
    da[0] = dc * (T(1) - f);
    da[1] = dc * (s[1] - save[0]) * f * (T(1) - f);
    da[2] = dh * (s_new[1] - save[3] * highway<V>()) * r * (T(1) - r);
    da[3] = dh * (T(1) - r) * highway<V>();
    ds[0] = V{};
    ds[1] = da[1] * p[0] + (da[2] * p[1] + dc * f);
    dp[0] = da[1] * s[1] + dp[0];
    dp[1] = da[2] * s[1] + dp[1];
  }

 private:
  template <class V>
  Element<V> highway() const {
    return SKIP ? static_cast<Element<V>>(highway_) : Element<V>(1);
  }
  double highway_;
};

using SRU = SRUCell<true>;
using SRUWide = SRUCell<false>;

}  // namespace fusedrnn::FUSEDRNN_ISA
