// Decides how the calls of one or several layers share the threads. Pure functions: the work of each call and the
// properties of the machine go in, a plan comes out. Not here: anything that asks the system, starts a thread or
// touches an array (core/run.cpp and core/team.cpp do). So tests/test_policy.py can ask about machines that are not at
// hand, and `fusedrnn.explain` can show the answer. Results of a call never depend on the plan. Next, read core/run.h,
// which carries plans out.
#pragma once

#include <cstddef>
#include <vector>

#include "../kernels/contract.h"
#include "team.h"

namespace fusedrnn {

// Floating-point operations of a cell's functions for each gate of a unit, in layers without a recurrent matrix, whose
// products may be small beside them.
inline constexpr double kCellFlops = 32;

// The work of one call: a layer, in one direction, over a sequence.
struct Workload {
  double flops = 0;
  double weight_bytes = 0;  // bytes of weights that every step reads
  Index steps = 0, rows = 0;
  // Panels of units, which the threads of a team share; if there are more threads than panels, they divide the rows as
  // well.
  Index panels = 1;
  Index barriers = 0;      // barriers that a team passes in the whole call; 0: its threads never wait for each other
  int lanes = 1;           // lanes of a vector
  bool divisible = false;  // rows may be cut into separate calls: inference without resets
};

// The rates and thresholds that decide how calls share threads. The defaults are measured; comments say where. They are
// deliberately a little slower than most machines: using one thread too few costs less than having threads wait for
// each other.
struct Machine {
  Index threads = 1;                                            // threads that the call may use
  double l2_bytes = static_cast<double>(std::size_t{1} << 20);  // of one core; l2_bytes() in cpu.h asks the system

  // Rates of one core.
  double flops_per_lane = 7e9;  // of the slowest machine measured, 118 GFLOP/s at 16 lanes (docs/experiments.md)
  double read_bytes = 80e9;     // per second from L2 or a fast L3: 97e9 to 130e9 on the machines of docs/experiments.md
  double l3_bytes = 25e9;       // per second from a slow L3: the first machine of docs/experiments.md

  // Times in seconds. A barrier of two threads takes 0.14 us on cores near each other (docs/scaling.md); starting a
  // region takes 1.1 us when its threads are spinning and 11 us when they sleep (decision 0003).
  double barrier = 0.2e-6;
  double region = 15e-6;          // a shorter call stays on one thread
  double warm_region = 5e-6;      // a streaming step within kMoment (stepper.cpp) of the last one
  double forked_region = 300e-6;  // after a fork, when each region starts new threads

  double l2_share = 0.75;  // the share of L2 that weights may fill beside a step's other data
  // Weights arrive from L3 in time while their reading time, multiplied by this margin, is below the time of the
  // products: when both ran side by side, reading took two thirds of the products' time (docs/experiments.md).
  double l3_margin = 1.5;
  Index rows_of_a_group = 8;  // fewer rows would starve the tiles, which are 6 to 12 rows high
  Index rows_of_a_share = 2;  // rows in each share of a call cut by rows, while the weights fit half of the usable L2
  // For larger weights: each share reads all of them (docs/experiments.md, shares of rows)
  Index rows_of_a_large_share = 8;

  // Each layer of a wavefront runs some steps behind the layer below: enough steps for one product of their inputs, but
  // few compared with the whole sequence. 4 to 16 were tried (docs/scaling.md); with a twelfth of the steps, starting
  // three layers takes less than a quarter of the call.
  Index steps_behind_part = 12, fewest_steps_behind = 4, most_steps_behind = 16;

  // Packing moves about one word per cycle: below 128 KiB, starting a second thread costs more time than it saves.
  double pack_alone_bytes = static_cast<double>(std::size_t{1} << 17);
  double pack_bytes_of_a_thread = static_cast<double>(std::size_t{1} << 16);
};

// The time of a call on one thread, in seconds.
double seconds_alone(const Workload& load, const Machine& machine);

// The team for one call: threads divide its units first, then its rows. At most `most` threads.
TeamShape team_for(const Workload& load, const Machine& machine, Index most);

// Whether one core may read all weights of a call: they fit its cache, or arrive from L3 in time.
bool suits_one_core(const Workload& load, const Machine& machine);

// The best number of shares to cut a call's rows into, one thread per share and no barriers; 1: do not cut.
Index shares_of_rows(const Workload& load, const Machine& machine);

// The number of threads that pack `bytes` of weights.
Index threads_for_packing(double bytes, const Machine& machine);

// The number of threads for one streaming step. `awake`: the threads of the previous step are still spinning.
Index threads_for_step(const Workload& load, const Machine& machine, bool awake);
bool step_is_shareable(double weight_bytes, const Machine& machine);

// How the calls of a plan relate to each other.
enum class Order {
  kIndependent,  // two directions, or the networks of an ensemble
  kStacked,  // inference through stacked layers: the x of each call is the y of the call before, over the same steps
};

// One stage of a plan: calls that run at the same time. Stages run one after the other.
struct Stage {
  enum Way {
    kTeam,       // one call, its units and rows divided among a team
    kRows,       // one call, cut into shares of its rows, one thread per share
    kQueue,      // independent calls; each of `threads` threads takes the longest call left
    kTeams,      // independent calls side by side, a team for each
    kWavefront,  // stacked calls side by side, a team for each, `behind` steps apart
  };
  Way way;
  std::vector<std::size_t> calls;
  std::vector<TeamShape> teams;  // one for each call; empty for kRows and kQueue
  Index threads = 1;             // total
  Index behind = 0;              // kWavefront
  double seconds = 0;            // predicted
};

std::vector<Stage> decide(const std::vector<Workload>& loads, Order order, const Machine& machine);

}  // namespace fusedrnn
