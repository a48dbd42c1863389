#include "cpu.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fusedrnn {

static std::size_t read_l2_bytes() {
  long bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  // On aarch64 the C library may not know; the kernel does (the file contains, for example, "1024K").
  if (std::FILE* file = bytes > 0 ? nullptr : std::fopen("/sys/devices/system/cpu/cpu0/cache/index2/size", "r")) {
    char text[32] = {}, *unit = text;
    if (std::fgets(text, sizeof text, file)) bytes = std::strtol(text, &unit, 10);
    bytes *= *unit == 'K' ? 1 << 10 : *unit == 'M' ? 1 << 20 : 1;
    std::fclose(file);
  }
  if (bytes <= 0) return std::size_t{1} << 20;
  return std::clamp<std::size_t>(static_cast<std::size_t>(bytes), std::size_t{1} << 17, std::size_t{4} << 20);
}

std::size_t l2_bytes() {
  static const std::size_t bytes = read_l2_bytes();
  return bytes;
}

// The compiler's run-time support asks CPUID about the instructions and XGETBV about the registers that the system
// saves.
#if defined(__x86_64__)
bool cpu_has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }
#endif

}  // namespace fusedrnn
