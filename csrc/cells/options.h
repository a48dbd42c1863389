// The options a cell can be computed with. Core fills them in, cells read them.
#pragma once

#include "../math/functions.h"

namespace fusedrnn {

enum Peephole { kNoPeephole, kPeepholeIFO, kPeepholeOPrev };  // see cells/lstm.h

struct CellOptions {
  Activation gate{kSigmoid}, state, output;
  double clip = __builtin_inf(), cell_clip = __builtin_inf();  // limits of pre-activations and of c; infinity: no limit
  Peephole peephole = kNoPeephole;
};

}  // namespace fusedrnn
