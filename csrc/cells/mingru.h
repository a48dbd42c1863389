// minGRU and minLSTM: gates and candidates that depend on x alone. Feng et al. 2024, "Were RNNs all we needed?",
// arXiv:2410.01201; python/fusedrnn/reference/cells/mingru.py is the same in NumPy.
//   minGRU   z = sigmoid(a_z), h' = (1 - z) h + z g(a_h)
//   minLSTM  f, i = sigmoid(a_f), sigmoid(a_i), h' = (f h + i g(a_h)) / (f + i)
// with g(a) = a + 1/2 where a >= 0, else sigmoid(a): the positive candidate of the paper's appendix B. Options: the
// identity (the paper's section 3) or tanh in place of g.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The function of a candidate. The slope follows from the value: g is at least 1/2 where g is linear, and less below.
class CandidateFunction {
 public:
  inline explicit CandidateFunction(const CellOptions& options) : f_(options.candidate) {}

  template <class V>
  V operator()(V a) const {
    using T = Element<V>;
    if (f_ == kIdentity) return a;
    if (f_ == kCandidateTanh) return tanh(a);
    return a < T(0) ? sigmoid(a) : a + T(0.5);  // in this order, a NaN stays a NaN
  }
  template <class V>
  V back(V dy, V y) const {
    using T = Element<V>;
    if (f_ == kIdentity) return dy;
    if (f_ == kCandidateTanh) return dy * (T(1) - y * y);
    return y < T(0.5) ? dy * y * (T(1) - y) : dy;
  }

 private:
  Candidate f_;
};

class MinGRU : public ElementwiseCell {
 public:
  static constexpr int gates = 2, states = 1, skip = 0, saved = 2, unit_parameters = 0;
  static constexpr int order[] = {0, 1};

  inline explicit MinGRU(const CellOptions& options) : candidate_(options) {}

  template <class V>
  void forward(const V* a, const V* s, const V*, V* s_new, V* save) const {
    const V z = sigmoid(a[0]), g = candidate_(a[1]);
    s_new[0] = z * (g - s[0]) + s[0];
    save[0] = z, save[1] = g;
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V*, const V* ds_new, V* da, V* ds, V*) const {
    using T = Element<V>;
    const V z = save[0], g = save[1], dh = ds_new[0];
    da[0] = dh * (g - s[0]) * z * (T(1) - z);
    da[1] = candidate_.back(dh * z, g);
    ds[0] = dh * (T(1) - z);
  }

 private:
  CandidateFunction candidate_;
};

class MinLSTM : public ElementwiseCell {
 public:
  static constexpr int gates = 3, states = 1, skip = 0, saved = 3, unit_parameters = 0;
  static constexpr int order[] = {0, 1, 2};

  inline explicit MinLSTM(const CellOptions& options) : candidate_(options) {}

  template <class V>
  void forward(const V* a, const V* s, const V*, V* s_new, V* save) const {
    const V g = candidate_(a[2]);
    s_new[0] = share(a[0], a[1]) * (g - s[0]) + s[0];
    save[0] = a[0], save[1] = a[1], save[2] = g;
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V*, const V* ds_new, V* da, V* ds, V*) const {
    using T = Element<V>;
    const V f = sigmoid(save[0]), i = sigmoid(save[1]), g = save[2], dh = ds_new[0];
    const V write = share(save[0], save[1]), rest = T(1) - write;
    const V dshare = dh * (g - s[0]) * write * rest;
    da[0] = dshare * (f - T(1));
    da[1] = dshare * (T(1) - i);
    da[2] = candidate_.back(dh * write, g);
    ds[0] = dh * rest;
  }

 private:
  // i / (f + i), also where both gates underflow. With d = 1 + e^-a, so that a gate is 1 / d, the quotient is
  // d_f / (d_f + d_i); both are multiplied by e^a of the larger a where this is negative, so that only one can be
  // large.
  template <class V>
  static V share(V a_f, V a_i) {
    using T = Element<V>;
    const V shift = max(splat(T(0)), -max(a_f, a_i)), one = exp(-shift);
    const V d_f = one + exp(-a_f - shift), d_i = one + exp(-a_i - shift);
    return d_f / (d_f + d_i);
  }

  CandidateFunction candidate_;
};

}  // namespace fusedrnn::FUSEDRNN_ISA
