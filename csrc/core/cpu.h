// What this CPU and operating system support. No other file detects CPU features.
#pragma once

#include <cstddef>

namespace fusedrnn {

bool cpu_has_avx2();    // AVX2, FMA, BMI
bool cpu_has_avx512();  // AVX-512 F, BW, DQ, VL and all of the above
// AMX would belong here, too: besides CPU support it needs the operating system's permission (arch_prctl).

// Bytes of a core's second-level cache: 1 MiB if the system does not say, and never more than one core would have to
// itself.
std::size_t l2_bytes();

}  // namespace fusedrnn
