// Checks that the rows of an output array do not overlap.
#pragma once

#include "../kernels/contract.h"

namespace fusedrnn {

struct Axis {
  Index count, stride;  // stride in bytes, of either sign
};

// Whether no two rows of an array share a byte; each row is `row` bytes. Exact for two axes, whatever their strides.
// With more axes, each must lie inside the next, as in every array made by slicing and transposing.
bool rows_apart(const Axis* axes, int count, Index row);

}  // namespace fusedrnn
