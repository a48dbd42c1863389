// What this CPU and operating system offer. No other file detects anything.
#pragma once

namespace fusedrnn {

bool cpu_has_avx2();    // AVX2, FMA, BMI
bool cpu_has_avx512();  // AVX-512 F, BW, DQ, VL and all of the above
// AMX belongs here, too: it needs the operating system's permission (arch_prctl) besides the CPU's word.

}  // namespace fusedrnn
