// Barriers: how the threads of one call wait for each other. core/team.cpp starts the threads; results never depend on
// their number, because no sum is ever split between threads.
#pragma once

#include <sched.h>
#include <time.h>

#include "../math/simd.h"
#include "contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline bool stopped(const Member& m) { return __atomic_load_n(m.team->stop, __ATOMIC_RELAXED) != 0; }

inline constexpr int kSpins = 200;  // a pause takes 10 to 50 ns, so 200 take a few microseconds

inline Index nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<Index>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// Waits until `flag` reaches `value`; false when the call is being abandoned. After spinning for a while it yields, so
// that more threads than cores still make progress.
inline bool wait_for(Member& m, const Flag& flag, Index value) {
  for (int spins = 0; __atomic_load_n(&flag.at, __ATOMIC_ACQUIRE) < value; ++spins) {
    if (stopped(m)) return false;
    if (spins < kSpins) {
      pause_core();
      continue;
    }
    const Index since = nanoseconds();
    while (__atomic_load_n(&flag.at, __ATOMIC_ACQUIRE) < value && !stopped(m)) sched_yield();
    m.waited += nanoseconds() - since;
  }
  return true;
}

// Out of line: otherwise every pass would contain several copies, and the caller is about to wait anyway.
[[gnu::noinline]] inline bool wait_for_all(Member& m, const Flag* flags, Index value, Index first, Index count) {
  for (Index other = first; other < first + count; ++other)
    if (!wait_for(m, flags[other], value)) return false;
  return true;
}

// Every thread publishes its own counter and waits for the counters of the others: no cache line has two writers.
inline bool pass(Member& m, Flag* flags, Index value, Index first, Index count) {
  if (count > 1) {
    __atomic_store_n(&flags[m.rank].at, value, __ATOMIC_RELEASE);
    if (!wait_for_all(m, flags, value, first, count)) return false;
  }
  return !stopped(m);
}

inline Index units_in_group(const Member& m) { return m.team->size / m.team->row_groups; }
inline Index unit_rank(const Member& m) { return m.rank % units_in_group(m); }
inline Index row_rank(const Member& m) { return m.rank / units_in_group(m); }

// After a step: waits for the threads of the same row group. sync() and barrier() return false when the call is being
// abandoned; the caller then returns at once.
inline bool sync(Member& m) { return pass(m, m.team->flags, ++m.steps, m.rank - unit_rank(m), units_in_group(m)); }

// Between the parts of a chunk: waits for all threads of the team.
inline bool barrier(Member& m) { return pass(m, m.team->barriers, ++m.barriers, 0, m.team->size); }

// The layer above another may run beside it, some steps behind: it waits for the steps that it reads, and publishes its
// own progress.
inline bool wait_for_input(Member& m, Index steps) {
  const Team* below = m.team->below;
  return !below || wait_for_all(m, below->progress, steps, 0, below->size);
}
inline void note_progress(const Member& m, Index steps) {
  if (m.team->progress) __atomic_store_n(&m.team->progress[m.rank].at, steps, __ATOMIC_RELEASE);
}

// Counts work and now and then checks for signals. Only rank 0 checks, because it runs on the thread that made the
// call, and Python handles signals nowhere else; a check takes the GIL, so there is one per few milliseconds of work.
inline void did(Member& m, double flops) {
  if (m.rank != 0 || !m.team->interrupted) return;
  m.work += flops;
  if (m.work < 1e7) return;
  m.work = 0;
  if (m.team->interrupted(m.team->interrupted_argument)) __atomic_store_n(m.team->stop, 1, __ATOMIC_RELAXED);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
