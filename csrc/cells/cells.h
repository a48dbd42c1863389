// All cells by name, and the options a cell can be computed with. Core and the kernels both include this file, so it
// contains nothing that depends on an instruction set: the list only names the cell types. They are defined in the
// other files of this folder, which only kernels/kernels.cpp includes. A new cell starts with a line here; next, read
// cells/cell.h.
#pragma once

#include "../math/functions.h"

namespace fusedrnn {

// The list of cells: X(type, name in Python and in the C API, the forms of kernels/forms.h it is compiled in). The
// usual form of a cell has its activation functions compiled in; an ...Options cell takes them from CellOptions. Cells
// with options are never Plain: Masked is at most a few per cent slower, whereas each form takes seconds to compile and
// tens of kilobytes, for every instruction set.
#define FUSEDRNN_CELLS(X)                           \
  X(RNNTanh, "rnn_tanh", Plain, Masked)             \
  X(RNNRelu, "rnn_relu", Plain, Masked)             \
  X(GRUAfter, "gru_after", Plain, Masked, Normed)   \
  X(GRUBefore, "gru_before", Plain, Masked)         \
  X(GRUSimple, "gru_simple", Plain, Masked)         \
  X(LSTM, "lstm", Plain, Masked, Projected, Normed) \
  X(RNNOptions, "rnn_options", Masked)              \
  X(GRUAfterOptions, "gru_after_options", Masked)   \
  X(GRUBeforeOptions, "gru_before_options", Masked) \
  X(GRUSimpleOptions, "gru_simple_options", Masked) \
  X(LSTMOptions, "lstm_options", Masked, Projected) \
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
  double clip = __builtin_inf(), cell_clip = __builtin_inf();  // limits of pre-activations and of c; infinity: no limit
  Peephole peephole = kNoPeephole;
};

}  // namespace fusedrnn
