// Starting the threads of one call: the only place with OpenMP. See kernels/parallel.h for how they keep in step.
#pragma once

#include <functional>
#include <vector>

#include "api.h"

namespace fusedrnn {

int num_threads();                  // that calls of this thread are to use, as of now
void set_num_threads(int n);        // for the process
void set_local_num_threads(int n);  // for this thread; 0: as the process
int local_num_threads();            // 0: as the process
const char* parallel_runtime();     // "GNU OpenMP ...", or "none"

// The number of threads that one call may use: num_threads(), or fewer when the system lately refused to start so many.
// The affinity mask, and with it the number, may change at any time, from outside too, so a call asks once and carries
// the answer: buffers and teams are sized by the same number. It asks when the number is first needed, because counting
// the processors is a system call, as dear as a short call itself.
class ThreadLimit {
 public:
  ThreadLimit() = default;
  explicit ThreadLimit(Index most) : most_(most) {}
  Index most();

 private:
  Index most_ = 0;  // 0: not asked yet
};

bool after_fork();   // this thread has survived a fork: its calls start threads of their own, 50 us each
long long now_ns();  // of a clock that never goes back
// How many times longer than on near cores a barrier took lately; 1 when that is not known.
double barrier_slowness();

// Asked now and then while a call runs; true: a signal wants it to end. Called on the thread that called run_team.
using InterruptCheck = bool (*)(void*);

struct TeamShape {
  Index size = 1, row_groups = 1;
};

// Work for one team of threads. It may read what the next one in the list writes, while that comes.
struct TeamWork {
  TeamShape shape;
  std::function<void(Member&)> work;
  bool follows_next = false;
};

// Runs all of `works` side by side, each on its own threads; the calling thread is rank 0 of the first. Returns false
// when a signal ended them.
bool run_teams(std::vector<TeamWork> works, InterruptCheck check = nullptr, void* check_argument = nullptr);

}  // namespace fusedrnn
