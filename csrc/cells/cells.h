// All cells by name. Core includes this file for the list alone, which contains nothing that depends on an instruction
// set; kernels/kernels.cpp, which is compiled for one, gets the definitions of the cells with it. A new cell starts
// with a line in the list and one at the end of this file; next, read cells/cell.h, and docs/add-a-cell.md for all the
// steps.
#pragma once

#include "options.h"

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

}  // namespace fusedrnn

#ifdef FUSEDRNN_ISA  // the kernels
#include "gru.h"
#include "lstm.h"
#include "rnn.h"
#endif
