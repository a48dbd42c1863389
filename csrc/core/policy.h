// How the calls of one layer, or of several, are shared among threads. Pure: what a call has to do and what the machine
// is like come in, a plan comes out. Nothing here asks the system, starts a thread or touches an array, so that
// tests/test_policy.py can ask about machines that nobody here has, and `fusedrnn.explain` can show the answer.
// Results of a call never depend on the plan.
#pragma once

#include <cstddef>
#include <vector>

#include "api.h"
#include "team.h"

namespace fusedrnn {

// What one call has to do: a layer, in one direction, over a sequence.
struct Workload {
  double flops = 0;
  double weight_bytes = 0;  // that are read at every step
  Index steps = 0, rows = 0;
  Index panels = 1;        // of units: what the threads of a team take; more threads than panels take other rows
  Index barriers = 0;      // that a team passes in the whole call
  int lanes = 1;           // of a vector
  bool divisible = false;  // rows may be cut into calls of their own: inference without resets
};

// The rates and thresholds by which calls are shared. The defaults are measured: where is said for each. They are a
// little slower than most machines, on purpose: a thread too few costs less than threads that wait for each other.
struct Machine {
  Index threads = 1;                                            // that the call may use
  double l2_bytes = static_cast<double>(std::size_t{1} << 20);  // of a core: l2_bytes() of cpu.h asks the system

  // Rates of one core.
  double flops_per_lane = 7e9;  // of the slowest machine met, 118 GFLOP/s at 16 lanes (docs/experiments.md)
  double read_bytes = 80e9;     // from L2 or a quick L3, a second: 97 to 130e9 on the machines of docs/experiments.md
  double l3_bytes = 25e9;       // from a slow L3: the first machine of docs/experiments.md

  // Seconds. A barrier of two threads takes 0.14 us on near cores (docs/scaling.md); starting a region 1.1 us when its
  // threads spin and 11 us when they sleep (decision 0003).
  double barrier = 0.2e-6;
  double region = 15e-6;          // a call that takes less stays on one thread
  double warm_region = 5e-6;      // a streaming step that follows the last one within kMoment (stepper.cpp)
  double forked_region = 300e-6;  // after a fork, where each region starts its threads

  double l2_share = 0.75;           // of L2 that weights may fill beside a step's other data
  double l3_margin = 1.5;           // weights come from L3 in time while this times the reading is below the products:
                                    // side by side they took two thirds of the products' time (docs/experiments.md)
  Index rows_of_a_group = 8;        // fewer rows each would starve the tiles, whose heights are 6 to 12
  Index rows_of_a_share = 2;        // of a call cut by rows, while the weights fit half of the usable L2
  Index rows_of_a_large_share = 8;  // beyond: each share reads all weights (docs/experiments.md, shares of rows)

  // A layer of a wavefront runs a part of all steps behind the layer below: enough for one product of their inputs, few
  // beside all. 4 to 16 were tried (docs/scaling.md); a twelfth keeps three layers' start below a quarter of the call.
  Index steps_behind_part = 12, fewest_steps_behind = 4, most_steps_behind = 16;

  // Packing moves about a word a cycle: below 128 KiB a second thread's start costs more than it brings.
  double pack_alone_bytes = static_cast<double>(std::size_t{1} << 17);
  double pack_bytes_of_a_thread = static_cast<double>(std::size_t{1} << 16);
};

// Seconds that one thread takes.
double seconds_alone(const Workload& load, const Machine& machine);

// Several threads on one call: its units first, then its rows. At most `most` of them.
TeamShape team_for(const Workload& load, const Machine& machine, Index most);

// Whether a core may read all of a call's weights: because they fit its cache, or come from L3 in time.
bool suits_one_core(const Workload& load, const Machine& machine);

// Into how many shares of its rows a call is best cut, one thread each, without barriers; 1: none.
Index shares_of_rows(const Workload& load, const Machine& machine);

// Threads that pack `bytes` of weights.
Index threads_for_packing(double bytes, const Machine& machine);

// Threads that take a streaming step. `awake`: the threads of the step before still spin.
Index threads_for_step(const Workload& load, const Machine& machine, bool awake);
bool step_is_shareable(double weight_bytes, const Machine& machine);

// How the calls of a plan relate to each other.
enum class Order {
  kIndependent,  // two directions, the nets of an ensemble
  kStacked,      // inference through layers: each call's x is the y of the one before it, over the same steps
};

// A part of a plan: calls that run at the same time. Stages follow each other.
struct Stage {
  enum Way {
    kTeam,       // one call, its units and rows split over a team
    kRows,       // one call, cut into shares of rows, one thread each
    kQueue,      // independent calls, each taken by one of `threads` threads, the longest first
    kTeams,      // independent calls side by side, each by a team
    kWavefront,  // stacked calls side by side, each by a team, `behind` steps apart
  };
  Way way;
  std::vector<std::size_t> calls;
  std::vector<TeamShape> teams;  // of each call; kRows and kQueue: none
  Index threads = 1;             // in all
  Index behind = 0;              // kWavefront
  double seconds = 0;            // predicted
};

std::vector<Stage> decide(const std::vector<Workload>& loads, Order order, const Machine& machine);

}  // namespace fusedrnn
