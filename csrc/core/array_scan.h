// Runs the kernels of kernels/array_scan.h on the threads that a scan is worth. Next, read bindings/recurrences.cpp.
#pragma once

#include "../kernels/recurrence_contract.h"
#include "run.h"

namespace fusedrnn {

// All of `scan` is set, except for `stream` and `work`. Throws Interrupted.
template <class T>
void run_scan(Scan<T> scan, bool backward, Interrupt interrupt);

// A team without barriers, or with few: as many threads as the work of `seconds` on one thread pays for, at most
// `shares`.
Index threads_for(double seconds, Index shares, ThreadLimit& limit);
void run_team(Index threads, const Work& work, Interrupt interrupt);

}  // namespace fusedrnn
