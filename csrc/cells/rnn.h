// The simple RNN: h' = tanh(a), relu(a), or any other function. Elman 1990, "Finding structure in time".
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

// With Tanh and Relu, backward needs nothing but h'.
template <class Function, bool KEEPS>
class RNNCell {
 public:
  static constexpr int gates = 1, states = 1, phases = 1, split = 0, saved = KEEPS, first = 1, unit_parameters = 0;
  static constexpr bool recurrent = true, carries_h = false, zeros_stay = !KEEPS;
  static constexpr int order[] = {0};

  inline explicit RNNCell(const CellOptions& options) : f(make<Function>(options)) {}

  template <class V>
  void forward(const V* a, const V*, const V*, V* s_new, V* save) const {
    s_new[0] = f(a[0]);
    if constexpr (KEEPS) save[0] = f.keep(a[0], s_new[0]);
  }
  template <class V>
  void backward(const V* save, const V*, const V* s_new, const V*, const V* ds_new, V* da, V*) const {
    da[0] = f.back(ds_new[0], KEEPS ? save[0] : s_new[0], s_new[0]);
  }

 private:
  template <class F>
  static F make(const CellOptions& options) {
    if constexpr (KEEPS) return F(options.state, options.clip);
    else return F();
  }
  Function f;
};

using RNNTanh = RNNCell<Tanh, false>;
using RNNRelu = RNNCell<Relu, false>;
using RNNOptions = RNNCell<Chosen, true>;

}  // namespace fusedrnn::FUSEDRNN_ISA
