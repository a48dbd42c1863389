// How the threads of one call keep in step. The threads themselves are started in core/team.cpp; results never depend
// on how many there are, because no sum is ever split between them.
#pragma once

#include <sched.h>
#include <time.h>

#include "../core/api.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline bool stopped(const Member& m) { return __atomic_load_n(m.team->stop, __ATOMIC_RELAXED) != 0; }

inline constexpr int kSpins = 200;  // a pause takes 10 to 50 ns: some microseconds in all

inline Index nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<Index>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// Until `flag` reaches `value`; false when the call is being abandoned. After a while of spinning it yields, so that
// more threads than cores still make progress.
inline bool wait_for(Member& m, const Flag& flag, Index value) {
  for (int spins = 0; __atomic_load_n(&flag.at, __ATOMIC_ACQUIRE) < value; ++spins) {
    if (stopped(m)) return false;
    if (spins < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      continue;
    }
    const Index since = nanoseconds();
    while (__atomic_load_n(&flag.at, __ATOMIC_ACQUIRE) < value && !stopped(m)) sched_yield();
    m.waited += nanoseconds() - since;
  }
  return true;
}

// Out of line: every pass would hold several copies of it, and its caller is about to wait anyway.
[[gnu::noinline]] inline bool wait_for_all(Member& m, const Flag* flags, Index value, Index first, Index count) {
  for (Index other = first; other < first + count; ++other)
    if (!wait_for(m, flags[other], value)) return false;
  return true;
}

// Every thread publishes its own counter and waits for the others': no cache line is written by two threads.
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

// After a step: the row group waits for its own. Both return false when the call is being abandoned; return at once.
inline bool sync(Member& m) { return pass(m, m.team->flags, ++m.steps, m.rank - unit_rank(m), units_in_group(m)); }

// Between the parts of a chunk: everybody waits for everybody.
inline bool barrier(Member& m) { return pass(m, m.team->barriers, ++m.barriers, 0, m.team->size); }

// A layer upon another may run beside it, some steps behind: it waits for the steps that it reads, and says how far its
// own are.
inline bool wait_for_input(Member& m, Index steps) {
  const Team* below = m.team->below;
  return !below || wait_for_all(m, below->progress, steps, 0, below->size);
}
inline void note_progress(const Member& m, Index steps) {
  if (m.team->progress) __atomic_store_n(&m.team->progress[m.rank].at, steps, __ATOMIC_RELEASE);
}

// Rank 0 runs on the thread that called us: only there can a signal be seen, and looking takes the GIL, so it looks
// once per some milliseconds' worth of work.
inline void did(Member& m, double flops) {
  if (m.rank != 0 || !m.team->interrupted) return;
  m.work += flops;
  if (m.work < 1e7) return;
  m.work = 0;
  if (m.team->interrupted(m.team->interrupted_argument)) __atomic_store_n(m.team->stop, 1, __ATOMIC_RELAXED);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
