// Starts the threads of one call: with core/team.cpp, the only place that uses OpenMP. Not here: how many threads a
// call gets (policy.h), and how they wait for each other (kernels/parallel.h). Next, read core/run.h, which hands calls
// to run_teams().
#pragma once

#include <functional>
#include <vector>

#include "../kernels/contract.h"

namespace fusedrnn {

int num_threads();                  // threads that calls of this thread use, at this moment
void set_num_threads(int n);        // for the process
void set_local_num_threads(int n);  // for this thread; 0: as in the process
int local_num_threads();            // 0: as in the process
const char* parallel_runtime();     // "GNU OpenMP", "LLVM OpenMP", or "none: ..."

// The most threads that one call may use: num_threads(), or fewer if the system recently refused to start that many.
// The affinity mask, and with it the number, may change at any time, even from outside the process. So a call asks once
// and passes the answer on: its buffers and its teams use the same number. It asks only when it needs the number,
// because counting the processors is a system call, which takes as long as a short call itself.
class ThreadLimit {
 public:
  ThreadLimit() = default;
  explicit ThreadLimit(Index most) : most_(most) {}
  Index most();

 private:
  Index most_ = 0;  // 0: not asked yet
};

bool after_fork();   // this thread survived a fork: its calls start new threads, at 50 us each
long long now_ns();  // monotonic
// By what factor a recent barrier was slower than a barrier on near cores; 1 if unknown.
double barrier_slowness();

// Called from time to time while a call runs, on the thread that called run_teams(); true: a signal should end the
// call.
using InterruptCheck = bool (*)(void*);

struct TeamShape {
  Index size = 1, row_groups = 1;
};

// The work of one team of threads. With follows_next, it reads what the next work in the list writes, while that work
// runs.
struct TeamWork {
  TeamShape shape;
  std::function<void(Member&)> work;
  bool follows_next = false;
};

// Runs all `works` side by side, each on its own threads; the calling thread is rank 0 of the first. Returns false if a
// signal ended them.
bool run_teams(std::vector<TeamWork> works, InterruptCheck check = nullptr, void* check_argument = nullptr);

}  // namespace fusedrnn
