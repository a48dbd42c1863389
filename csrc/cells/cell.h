// What a cell is. A cell file holds gate maths and nothing else; kernels/forward.h and backward.h turn it into layers.
//
// Shapes: T time, B batch, I input, H hidden, G gates. `a` are pre-activations (input part + recurrent part + biases),
// `s` the states before the step, `s_new` after it; s[0] is always h. V is a vector of hidden units; every function is
// element-wise in them. Names follow the literature: i f g o, r z n; a gradient is `d` + name.
//
// A cell is an object made from CellOptions (core/api.h) once per call. Its usual form has its functions compiled in
// (UsualFunctions of kernels/activations.h); the same template over ChosenFunctions is its form with options.
//
// Traits
//   gates     matrices of each weight (rows of weight_hh / H)
//   states    1 (h) or 2 (h, c)
//   phases    1, or 2 when a second matrix product depends on gates of the first
//   split     1 when the first gate needs its recurrent part apart from its input part (GRU, reset after); forward then
//             gets one more pre-activation, the recurrent part of that gate, as its last
//   saved     values per unit that forward keeps for backward, in place of the pre-activations (0: s_new is enough);
//             otherwise gates + split
//   unit_parameters   parameters of one element per hidden unit (peepholes), which one-phase functions get as p
//   carries_h backward hands part of dh to the step before without a matrix product
//   zeros_stay  a unit without weights and biases stays at zero. The padded lanes of the last block are such units;
//   where
//             they would not stay (a state of sigmoid(0), an f above one), the loop puts them back
//   order[]   the gate's row block in torch's weights, for each gate in the order of `a`; with two phases the gates of
//             the first come first
//   first     gates of the first phase (= gates when phases == 1)
// gates, first, split, phases and order are all that matrix products know of a cell (ShapeOf in kernels/layout.h).
//
// Functions, one phase
//   forward (a, s, p, s_new, save)
//   backward(save, s, s_new, p, ds_new, da, ds)   ds_new: total gradient of the new states. da[gates + split] and ds,
//                                                 the gradient of the old states that needs no matrix product.
//   unit_gradients(da, s, s_new, dp)              adds one row's share to the gradient of p; with unit_parameters only
// With two states, for the normed form, the same in two parts, between which c is normalised
//   hidden(save, seen)                            h from what it sees of c
//   backward_hidden(save, seen, dh, da_o, dseen)  the last gate's part of backward, and the gradient of `seen`
//   backward_state(save, s, p, dc, da, ds)        the rest, from the whole gradient of c; the last da is there already
// Functions, two phases
//   gate    (a, s, operand, save)              first phase: gates, and what the second product is taken of
//   forward (a, s, save, s_new, save_last)     second phase; save holds what the first phase saved
//   backward     (save, s, ds_new, da_last, ds)           gradient of the last gate's pre-activation
//   backward_gate(save, s, ds_new, doperand, da, ds)      ds is added to
#pragma once

#include "../kernels/activations.h"
