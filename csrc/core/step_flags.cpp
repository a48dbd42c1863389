#include "step_flags.h"

namespace fusedrnn {

StepFlags::StepFlags(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask, const std::uint8_t* reset,
                     bool reverse)
    : T_(T), B_(B), buffer_(product(size(T), size(B))) {
  auto* const flags = buffer_.as<std::uint8_t>();
  for (Index t = 0; t < T; ++t)
    for (Index b = 0; b < B; ++b) flags[t * B + b] = 0;
  for (Index t = 0; t < T; ++t)
    for (Index b = 0; b < B; ++b) {
      if (lengths && t >= lengths[b]) continue;
      const Index step = reverse ? T - 1 - t : t;
      if (!mask || mask[t * B + b]) flags[step * B + b] |= kRuns;
      // In reverse, the step before the cut in time follows it.
      if (reset && reset[t * B + b] && (!reverse || t > 0)) flags[(reverse ? step + 1 : step) * B + b] |= kCut;
    }
}

}  // namespace fusedrnn
