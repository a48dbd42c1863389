// Which cells there are, and what a cell with options computes with. Seen by core, too, so without instruction sets: the
// types that the list names are in the other files of this folder, and only kernels/kernels.cpp asks for them.
#pragma once

#include "../math/functions.h"

namespace fusedrnn {

// The one list: X(type, name in Python and in the C API, forms of kernels/forms.h that it is compiled in). The usual form of
// a cell has its functions compiled in, the ...Options form takes them from CellOptions. Cells with options are never
// Plain: Masked costs them a few per cent at most, and each form takes seconds to compile and tens of kilobytes, for
// every instruction set.
#define FUSEDRNN_CELLS(X)                                  \
  X(RNNTanh, "rnn_tanh", Plain, Masked)                    \
  X(RNNRelu, "rnn_relu", Plain, Masked)                    \
  X(GRUAfter, "gru_after", Plain, Masked, Normed)          \
  X(GRUBefore, "gru_before", Plain, Masked)                \
  X(GRUSimple, "gru_simple", Plain, Masked)                \
  X(LSTM, "lstm", Plain, Masked, Projected, Normed)        \
  X(RNNOptions, "rnn_options", Masked)                     \
  X(GRUAfterOptions, "gru_after_options", Masked)          \
  X(GRUBeforeOptions, "gru_before_options", Masked)        \
  X(GRUSimpleOptions, "gru_simple_options", Masked)        \
  X(LSTMOptions, "lstm_options", Masked, Projected)        \
  X(LSTMCoupled, "lstm_coupled", Masked, Projected)

enum CellId {
#define FUSEDRNN_ID(type, text, ...) k##type,
  FUSEDRNN_CELLS(FUSEDRNN_ID)
#undef FUSEDRNN_ID
      kCellCount
};

enum Peephole { kNoPeephole, kPeepholeIFO, kPeepholeOPrev };  // see cells/lstm.h

struct CellOptions {
  Activation gate{kSigmoid}, state, output;
  double clip = __builtin_inf(), cell_clip = __builtin_inf();  // of pre-activations, of c; infinity: none
  Peephole peephole = kNoPeephole;
};

}  // namespace fusedrnn
