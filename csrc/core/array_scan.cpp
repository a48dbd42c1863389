#include "array_scan.h"

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "dispatch.h"

namespace fusedrnn {

Index threads_for(double seconds, Index shares, ThreadLimit& limit) {
  const Machine machine = machine_for(seconds, limit);
  const double paid = 1 + seconds / machine.region;
  Index threads = std::min(machine.threads, shares);
  if (paid < static_cast<double>(threads)) threads = static_cast<Index>(paid);
  return std::max<Index>(threads, 1);
}

void run_team(Index threads, const Work& work, Interrupt interrupt) {
  if (!run_teams({{{threads, 1}, work}}, interrupt.check, interrupt.argument)) throw Interrupted();
}

namespace {

// Arrays that together exceed this are written past the caches: a last-level cache of this size, shared by the cores,
// would not hold them until somebody reads them.
constexpr double kCacheBytes = 32 << 20;
constexpr double kBytesPerSecond = 8e9;  // of one core, from memory
constexpr std::uintptr_t kLine = 64;

template <class T>
bool on_lines(const T* p, Index time, Index units) {
  const auto bytes = [](Index n) { return static_cast<std::uintptr_t>(n) * sizeof(T); };
  return reinterpret_cast<std::uintptr_t>(p) % kLine == 0 && bytes(time) % kLine == 0 && bytes(units) % kLine == 0;
}

}  // namespace

template <class T>
void run_scan(Scan<T> scan, bool backward, Interrupt interrupt) {
  const double numbers = static_cast<double>(scan.T_) * static_cast<double>(scan.B) * static_cast<double>(scan.units);
  const bool whole = scan.a_time != 0 && scan.a_unit != 0, sums = backward && scan.a_unit == 0 && scan.a_time != 0;
  const double arrays = (whole ? 1 : 0) + (backward ? 3 + (whole ? 1 : 0) : 2);
  const double bytes = numbers * arrays * sizeof(T);
  scan.stream = bytes > kCacheBytes;
  if (backward) {
    scan.stream = scan.stream && on_lines(scan.db, scan.db_time, scan.units);
    if (whole) scan.stream = scan.stream && on_lines(scan.da, scan.da_time, scan.units);
  } else {
    scan.stream = scan.stream && on_lines(scan.h, scan.h_time, scan.units);
  }
  const Index granule = scan_granule(sums), shares = scan.B * ((scan.units + granule - 1) / granule);
  ThreadLimit limit;
  const Index threads = threads_for(bytes / kBytesPerSecond, shares, limit);
  Arena arena;
  arena.claim(scan.work, product(size(scan_work()), size(threads)));
  const Buffer buffer = arena.allocate();
  const RecurrenceTable<T>& table = recurrences_of<T>(current_kernels());
  const auto kernel = backward ? table.scan_backward : table.scan_forward;
  run_team(threads, [&](Member& member) { kernel(scan, member); }, interrupt);
}

template void run_scan(Scan<float>, bool, Interrupt);
template void run_scan(Scan<double>, bool, Interrupt);

}  // namespace fusedrnn
