// The options a cell can be computed with. Core fills them in, cells read them.
#pragma once

#include "../math/functions.h"

namespace fusedrnn {

enum Peephole { kNoPeephole, kPeepholeIFO, kPeepholeOPrev };  // see cells/lstm.h

// The function of the candidate in cells without a recurrent matrix. Usual: the g of MinGRU and MinLSTM, the relu of
// IndRNN.
enum Candidate { kUsual, kIdentity, kCandidateTanh };

struct CellOptions {
  Activation gate{kSigmoid}, state, output;
  double clip = __builtin_inf(), cell_clip = __builtin_inf();  // limits of pre-activations and of c; infinity: no limit
  Peephole peephole = kNoPeephole;
  Candidate candidate = kUsual;
  double highway_bias = 0;  // SRU: the factor of x is sqrt(1 + 2 e^highway_bias); -inf: 1
};

}  // namespace fusedrnn
