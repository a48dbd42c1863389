// LSTM: i, f, o = sigmoid(a), g = tanh(a); c' = f c + i g, h' = o tanh(c').
// Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000.
// Gate equations only: matrix products and the loop over time are in kernels/forward.h. cells/cell.h explains each
// function and trait; python/fusedrnn/reference/cells/lstm.py is the same cell in NumPy. Next, read kernels/forward.h.
// Options:
//   peepholes  i and f see c, o sees c'   a_i += p_i c, a_f += p_f c, a_o += p_o c'   Gers, Schraudolph &
//                                                                                     Schmidhuber 2002
//              o sees c                   a_o += p_o c                                as some textbooks have it
//   coupled    f = 1 - i: no separate gate f (rows i g o, peepholes i o)              Greff et al. 2015
//   cell_clip  c' limited to [-cell_clip, cell_clip]                                  Sak, Senior & Beaufays 2014
//   other functions in place of sigmoid and tanh; clipped pre-activations
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class Functions, bool COUPLED>
class LSTMCell : Functions {
  using Functions::gate, Functions::state, Functions::output, Functions::adjustable;

 public:
  static constexpr int gates = COUPLED ? 3 : 4, states = 2, phases = 1, split = 0, saved = gates, first = gates;
  static constexpr int unit_parameters = adjustable ? gates - 1 : 0;  // p_i p_f p_o, or p_i p_o; o_prev: only p_o
  static constexpr bool recurrent = true, carries_h = false, zeros_stay = !adjustable;
  static constexpr int order[] = {0, 1, 2, 3};

  inline explicit LSTMCell(const CellOptions& o) : Functions(o), cell_clip_(o.cell_clip), peephole_(o.peephole) {}

  template <class V>
  void forward(const V* a, const V* s, const V* p, V* s_new, V* save) const {
    V a_i = a[I], a_f = a[F], a_o = a[O];
    if (peephole() == kPeepholeIFO) {
      a_i = p[I] * s[1] + a_i;
      if constexpr (!COUPLED) a_f = p[F] * s[1] + a_f;
    } else if (peephole() == kPeepholeOPrev) {
      a_o = p[PO] * s[1] + a_o;
    }
    const V i = gate(a_i), f = forget(a_f, i), g = state(a[G]);
    const V c = limited(f * s[1] + i * g);
    if (peephole() == kPeepholeIFO) a_o = p[PO] * c + a_o;
    const V o = gate(a_o);
    save[I] = gate.keep(a_i, i), save[G] = state.keep(a[G], g), save[O] = gate.keep(a_o, o);
    if constexpr (!COUPLED) save[F] = gate.keep(a_f, f);
    s_new[0] = o * output(c);
    s_new[1] = c;
  }
  template <class V>
  void backward(const V* save, const V* s, const V* s_new, const V* p, const V* ds_new, V* da, V* ds) const {
    V dc;
    backward_hidden(save, s_new[1], ds_new[0], da[O], dc);
    backward_state(save, s, p, dc + ds_new[1], da, ds);
  }

  // forward and backward in two parts, for layer normalisation of c on its way to h: `seen` is the c that h is computed
  // from.
  template <class V>
  V hidden(const V* save, V seen) const {
    return gate.recall(save[O]) * output(seen);
  }
  template <class V>
  void backward_hidden(const V* save, V seen, V dh, V& da_o, V& dseen) const {
    const V o = gate.recall(save[O]), out = output(seen);  // recomputing is cheaper than keeping
    da_o = gate.back(dh * out, save[O], o);
    dseen = output.back(dh * o, seen, out);
  }
  // da[O] is already set.
  template <class V>
  void backward_state(const V* save, const V* s, const V* p, V dc, V* da, V* ds) const {
    const V i = gate.recall(save[I]), f = recall_forget(save, i), g = state.recall(save[G]);
    if (peephole() == kPeepholeIFO) dc = da[O] * p[PO] + dc;
    if (adjustable && cell_clip_ < __builtin_inf())
      dc = magnitude(f * s[1] + i * g) > static_cast<Element<V>>(cell_clip_) ? V{} : dc;
    if constexpr (COUPLED) {
      da[I] = gate.back(dc * (g - s[1]), save[I], i);
    } else {
      da[I] = gate.back(dc * g, save[I], i);
      da[F] = gate.back(dc * s[1], save[F], f);
    }
    da[G] = state.back(dc * i, save[G], g);
    ds[1] = dc * f;
    if (peephole() == kPeepholeIFO) {
      ds[1] = da[I] * p[I] + ds[1];
      if constexpr (!COUPLED) ds[1] = da[F] * p[F] + ds[1];
    } else if (peephole() == kPeepholeOPrev) {
      ds[1] = da[O] * p[PO] + ds[1];
    }
  }
  // Adds the contribution of one row and step to the gradients of the peepholes.
  template <class V>
  void unit_gradients(const V* da, const V* s, const V* s_new, V* dp) const {
    if (peephole() == kPeepholeIFO) {
      dp[I] = da[I] * s[1] + dp[I];
      if constexpr (!COUPLED) dp[F] = da[F] * s[1] + dp[F];
      dp[PO] = da[O] * s_new[1] + dp[PO];
    } else {
      dp[PO] = da[O] * s[1] + dp[PO];
    }
  }

 private:
  static constexpr int I = 0, F = COUPLED ? 0 : 1, G = gates - 2, O = gates - 1, PO = gates - 2;

  Peephole peephole() const { return adjustable ? peephole_ : kNoPeephole; }
  template <class V>
  V forget(V a_f, V i) const {
    if constexpr (COUPLED) return Element<V>(1) - i;
    else return gate(a_f);
  }
  template <class V>
  V recall_forget(const V* save, V i) const {
    if constexpr (COUPLED) return Element<V>(1) - i;
    else return gate.recall(save[F]);
  }
  template <class V>
  V limited(V c) const {
    return adjustable ? limit(c, static_cast<Element<V>>(cell_clip_)) : c;
  }

  double cell_clip_;
  Peephole peephole_;
};

using LSTM = LSTMCell<UsualFunctions, false>;
using LSTMOptions = LSTMCell<ChosenFunctions, false>;
using LSTMCoupled = LSTMCell<ChosenFunctions, true>;

}  // namespace fusedrnn::FUSEDRNN_ISA
