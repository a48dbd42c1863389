// Carries plans out: runs calls that are ready, on the threads that policy.h chose for them.
#pragma once

#include <functional>
#include <vector>

#include "cpu.h"
#include "policy.h"
#include "team.h"

namespace fusedrnn {

struct Interrupt {
  InterruptCheck check = nullptr;
  void* argument = nullptr;
};

struct Interrupted {};  // thrown when a signal ended a call

// This machine at this moment, for a call of this thread; `threads` stays at 1.
Machine this_machine();

// The same for calls that take `seconds` on one thread: with the call's threads, if using several could pay. Counting
// the processors is a system call, which takes as long as a short call itself.
Machine machine_for(double seconds, ThreadLimit& threads);

using Work = std::function<void(Member&)>;

// Runs calls that are ready: works[i] is call i. `by_rows(i, n)` makes n works from the shares of call i's rows, and
// `keep_close(i, steps)` limits the input product of call i to `steps` steps at once. Throws Interrupted.
struct Calls {
  std::vector<Work> works;
  std::function<std::vector<Work>(std::size_t, Index)> by_rows;
  std::function<void(std::size_t, Index)> keep_close;
};
void run(const std::vector<Stage>& plan, const Calls& calls, Interrupt interrupt);

// Runs one call on the calling thread. Throws Interrupted.
template <class Call>
void run_alone(const Call& call, Interrupt interrupt) {
  Team team;
  team.l2_bytes = static_cast<Index>(l2_bytes());
  int stop = 0;
  team.stop = &stop;
  team.interrupted = interrupt.check, team.interrupted_argument = interrupt.argument;
  Member member{&team, 0};
  call(member);
  if (stop != 0) throw Interrupted();
}

}  // namespace fusedrnn
