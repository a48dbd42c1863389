// Tokens of a large vocabulary: which of them occur in a call, and their columns of W_ih. A call that packs its weights
// packs these columns alone, so its cost follows the tokens there are and not the vocabulary. Not here: the sums of
// backward over the rows of a token (kernels/chunk_products.h).
#pragma once

#include <cstdint>
#include <vector>

#include "../kernels/contract.h"
#include "run.h"
#include "schedule.h"

namespace fusedrnn {

// The distinct tokens of the steps that run, in ascending order, from a caller's (T, B) in C order. numbers (T, B):
// where a step runs, the place of its token among these; elsewhere 0. Each token is read once. Throws std::out_of_range
// for a token outside [0, input_size).
std::vector<std::int64_t> number_tokens(const std::int64_t* tokens, std::int64_t* numbers, const Schedule& schedule,
                                        Index input_size);

// A caller's matrix with any strides, in bytes, and any alignment.
struct StridedMatrix {
  const char* data = nullptr;
  Index rows = 0, row = 0, column = 0;
};

// to[r][j] = from[r][ids[j]], to: (rows, count) in C order. Throws Interrupted.
template <class T>
void take_columns(const StridedMatrix& from, const std::int64_t* ids, Index count, T* to, Interrupt interrupt);

}  // namespace fusedrnn
