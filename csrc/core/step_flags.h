// Which rows run at which step, and where their states become zero: from a caller's lengths, mask and resets to the
// kernels' StepFlag bytes. Unlike Schedule, which layers use, these keep the caller's rows and steps.
#pragma once

#include <cstdint>

#include "../kernels/recurrence_contract.h"
#include "buffer.h"

namespace fusedrnn {

class StepFlags {
 public:
  // lengths: (B,), each in [0, T]; mask, reset: (T, B) bytes in C order, nonzero for true; each may be null. A reset
  // cuts between the steps t - 1 and t in both directions, and is not read past a row's length. Each element is read
  // once.
  StepFlags(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask, const std::uint8_t* reset,
            bool reverse);
  Index T() const { return T_; }
  Index B() const { return B_; }
  const std::uint8_t* bytes() const { return buffer_.as<const std::uint8_t>(); }  // (T, B) in running order

 private:
  Index T_, B_;
  Buffer buffer_;
};

}  // namespace fusedrnn
