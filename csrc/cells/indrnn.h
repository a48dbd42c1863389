// IndRNN: h' = relu(a + u h) with one recurrent weight u for each unit. Li et al. 2018, "Independently recurrent neural
// network", arXiv:1803.04831; python/fusedrnn/reference/cells/indrnn.py is the same in NumPy. Option: tanh.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

class IndRNN : public ElementwiseCell {
 public:
  static constexpr int gates = 1, states = 1, skip = 0, saved = 0, unit_parameters = 1;  // u
  static constexpr int order[] = {0};

  inline explicit IndRNN(const CellOptions& options) : tanh_(options.candidate == kCandidateTanh) {}

  template <class V>
  void forward(const V* a, const V* s, const V* p, V* s_new, V*) const {
    const V sum = p[0] * s[0] + a[0];
    s_new[0] = tanh_ ? tanh(sum) : max(V{}, sum);
  }
  template <class V>
  void backward(const V*, const V* s, const V* s_new, const V* p, const V* ds_new, V* da, V* ds, V* dp) const {
    da[0] = tanh_ ? Tanh().back(ds_new[0], s_new[0], s_new[0]) : Relu().back(ds_new[0], s_new[0], s_new[0]);
    ds[0] = da[0] * p[0];
    dp[0] = da[0] * s[0] + dp[0];
  }

 private:
  bool tanh_;
};

}  // namespace fusedrnn::FUSEDRNN_ISA
