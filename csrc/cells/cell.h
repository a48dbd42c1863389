// What a cell has to define: the gate equations of one hidden unit at one time step, and traits that describe them.
// Not here: matrix products, loops over time, threads and memory. kernels/forward.h and kernels/backward.h turn a cell
// into a layer. Next, read cells/lstm.h (a complete cell), then kernels/forward.h (what calls it).
//
// Shapes: T time, B batch, I input, H hidden, G gates. `a` are the pre-activations (input part + recurrent part +
// biases), `s` the states before the step, `s_new` the states after it; s[0] is always h. V is a vector of hidden
// units, and every function is element-wise in them. Names follow the literature: i f g o, r z n; a gradient is `d` +
// name.
//
// A cell is an object made from CellOptions (cells/options.h) once per call. The usual form of a cell has its
// activation functions compiled in (UsualFunctions); the same template over ChosenFunctions is its form with options.
//
// Traits
//   recurrent whether there is a matrix W_hh; see below for cells without one
//   gates     matrices in each weight (rows of weight_ih / H)
//   states    1 (h) or 2 (h, c)
//   phases    1, or 2 when a second matrix product depends on gates of the first
//   split     1 when the first gate needs its recurrent part separately from its input part (GRU, reset after); forward
//             then gets that recurrent part as one more pre-activation, the last one
//   saved     values per unit that forward keeps for backward, in place of the pre-activations (0: s_new is enough);
//             otherwise gates + split
//   unit_parameters  parameters with one element per hidden unit (peepholes); one-phase functions receive them as p
//   carries_h true if backward passes part of dh to the previous step without a matrix product
//   zeros_stay  true if a unit whose weights and biases are all zero keeps a zero state. The padded lanes of the last
//               block are such units. If false (a state of sigmoid(0), an f above one), the loop clears them after each
//               step.
//   order[]   for each gate in the order of `a`: its row block in torch's weights. With two phases, the gates of the
//             first phase come first
//   first     gates of the first phase (= gates when phases == 1)
// gates, first, split, phases and order are all that matrix products know about a cell (ShapeOf in kernels/layout.h).
//
// Functions of a cell with one phase
//   forward (a, s, p, s_new, save)
//   backward(save, s, s_new, p, ds_new, da, ds)   ds_new: total gradient of the new states. Sets da[gates + split], and
//                                                 ds, the part of the old states' gradient that needs no matrix
//                                                 product.
//   unit_gradients(da, s, s_new, dp)              adds one row's contribution to the gradient of p; only with
//                                                 unit_parameters
// With two states the normed form needs the same functions in two parts, because c is normalised in between
//   hidden(save, seen)                            h, computed from the normalised c (`seen`)
//   backward_hidden(save, seen, dh, da_o, dseen)  gradients of the last gate's pre-activation and of `seen`
//   backward_state(save, s, p, dc, da, ds)        the rest, given the total gradient of c; the last da is already set
// Functions of a cell with two phases
//   gate    (a, s, operand, save)              first phase: the gates, and the operand of the second product
//   forward (a, s, save, s_new, save_last)     second phase; save holds what the first phase saved
//   backward     (save, s, ds_new, da_last, ds)           gradient of the last gate's pre-activation
//   backward_gate(save, s, ds_new, doperand, da, ds)      gradients of the first phase's pre-activations; adds to ds
//
// Cells without a recurrent matrix (recurrent = false): units do not mix over time, so the loop over the steps of a
// chunk runs inside the loop over units (kernels/scan_forward.h). They have the traits gates, states, saved,
// unit_parameters, order and
//   sharing   neighbouring units that share the parameters per unit: 1, or 2 for complex numbers
//   skip      1 when x itself is the last pre-activation, behind those of the gates: a[gates]. As many inputs as units
// and the functions
//   forward (a, s, p, s_new, save)
//   backward(save, s, s_new, p, ds_new, da, ds, dp)   sets da[gates + skip] and all of ds; adds to dp
//   prepare (p)                                       once before the steps of a chunk: what they need instead of p
//   finish  (p, dp)                                   from the gradient of what prepare() made to that of p; units that
//                                                     share a parameter all get its whole gradient
// and, if they have a masked form, forward_zoned and backward_zoned, with the share of c that a unit keeps.
#pragma once

#include "../math/activations.h"
#include "options.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The activation functions of a gated cell: `gate` for the gates, `state` for the candidate values that the gates
// weight, `output` for an LSTM's c on its way to h.
struct UsualFunctions {
  static constexpr bool adjustable = false;
  inline explicit UsualFunctions(const CellOptions&) {}
  Sigmoid gate;
  Tanh state, output;
};

struct ChosenFunctions {
  static constexpr bool adjustable = true;
  inline explicit ChosenFunctions(const CellOptions& o)
      : gate(o.gate, o.clip), state(o.state, o.clip), output(o.output, __builtin_inf()) {}
  Chosen gate, state, output;
};

// The base of cells without a recurrent matrix whose steps take the parameters per unit as they are.
struct ElementwiseCell {
  static constexpr bool recurrent = false;
  static constexpr int sharing = 1;
  template <class V>
  void prepare(V*) const {}
  template <class V>
  void finish(const V*, V*) const {}
};

}  // namespace fusedrnn::FUSEDRNN_ISA
