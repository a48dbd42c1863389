// Starting the threads of one call: the only place with OpenMP. See kernels/parallel.h for how they keep in step.
#pragma once

#include <functional>

#include "api.h"

namespace fusedrnn {

int num_threads();                  // for calls of this thread
void set_num_threads(int n);        // for the process
void set_local_num_threads(int n);  // for this thread; 0: as the process
int local_num_threads();            // 0: as the process
const char* parallel_runtime();     // "GNU OpenMP ...", or "none"

// Asked now and then while a call runs; true: a signal wants it to end. Called on the thread that called run_team.
using InterruptCheck = bool (*)(void*);

// Runs work(member) on `size` threads, the calling one included. Returns false when it was interrupted.
bool run_team(Index size, Index row_groups, const std::function<void(Member&)>& work, InterruptCheck check = nullptr,
              void* check_argument = nullptr);

}  // namespace fusedrnn
