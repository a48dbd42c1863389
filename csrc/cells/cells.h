// All cells by name. Core includes this file for the list alone, which contains nothing that depends on an instruction
// set; kernels/kernels.cpp, which is compiled for one, gets the definitions of the recurrent cells with it. A new cell
// starts with a line in the list and one at the end of this file, or of kernels/scan_kernels.cpp's includes; next, read
// cells/cell.h, and docs/add-a-cell.md for all the steps.
#pragma once

#include "options.h"

namespace fusedrnn {

// The lists of cells: X(type, name in Python and in the C API, the forms of kernels/forms.h it is compiled in). The
// usual form of a cell has its activation functions compiled in; an ...Options cell takes them from CellOptions. Cells
// with options are never Plain: Masked is at most a few per cent slower, whereas each form takes seconds to compile and
// tens of kilobytes, for every instruction set.
#define FUSEDRNN_RECURRENT_CELLS(X)                 \
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

// Cells without a recurrent matrix; kernels/scan_kernels.cpp includes their definitions.
#define FUSEDRNN_SCAN_CELLS(X)   \
  X(MinGRU, "mingru", Plain)     \
  X(MinLSTM, "minlstm", Plain)   \
  X(IndRNN, "indrnn", Plain)     \
  X(QRNN, "qrnn", Plain, Masked) \
  X(SRU, "sru", Plain)           \
  X(SRUWide, "sru_wide", Plain)  \
  X(LRU, "lru", Plain)           \
  X(RGLRU, "rglru", Plain)       \
  X(RGLRUWide, "rglru_wide", Plain)

#define FUSEDRNN_CELLS(X) FUSEDRNN_RECURRENT_CELLS(X) FUSEDRNN_SCAN_CELLS(X)

enum CellId {
#define FUSEDRNN_ID(type, text, ...) k##type,
  FUSEDRNN_CELLS(FUSEDRNN_ID)
#undef FUSEDRNN_ID
      kCellCount
};
#define FUSEDRNN_ONE(type, text, ...) +1
inline constexpr int kRecurrentCells = 0 FUSEDRNN_RECURRENT_CELLS(FUSEDRNN_ONE);
#undef FUSEDRNN_ONE

}  // namespace fusedrnn

#ifdef FUSEDRNN_ISA  // the kernels
#include "gru.h"
#include "lstm.h"
#include "rnn.h"
#endif
