// What this CPU and operating system offer. No other file detects anything.
#pragma once

#include <cstddef>

namespace fusedrnn {

bool cpu_has_avx2();    // AVX2, FMA, BMI
bool cpu_has_avx512();  // AVX-512 F, BW, DQ, VL and all of the above
// AMX belongs here, too: it needs the operating system's permission (arch_prctl) besides the CPU's word.

// Bytes of a core's second-level cache; 1 MiB if nobody says, and never beyond what a core would have to itself.
std::size_t l2_bytes();

}  // namespace fusedrnn
