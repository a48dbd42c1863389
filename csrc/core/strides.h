// Whether an array that is written has a place of its own for each row.
#pragma once

#include "../kernels/contract.h"

namespace fusedrnn {

struct Axis {
  Index count, stride;  // stride in bytes, of either sign
};

// Whether no two of an array's rows share a byte; each row is `row` bytes. Exact for two axes, however their strides
// are; of more, one axis has to lie inside the next, as in every array that slicing and transposing make.
bool rows_apart(const Axis* axes, int count, Index row);

}  // namespace fusedrnn
