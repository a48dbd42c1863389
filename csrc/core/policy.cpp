#include "policy.h"

#include <algorithm>
#include <cmath>

namespace fusedrnn {

double seconds_alone(const Workload& load, const Machine& machine) {
  const double memory = static_cast<double>(load.steps) * load.weight_bytes / machine.read_bytes;
  return std::max(load.flops / (machine.flops_per_lane * load.lanes), memory);
}

TeamShape team_for(const Workload& load, const Machine& machine, Index most) {
  const double seconds = seconds_alone(load, machine);
  if (most <= 1 || load.steps == 0 || seconds < machine.region) return {};
  TeamShape shape;
  // Adding a thread pays while each thread's work between two barriers takes longer than a barrier.
  const double between = seconds / static_cast<double>(std::max<Index>(load.barriers, 1));
  shape.size = std::min<Index>(most, static_cast<Index>(between / machine.barrier));
  if (shape.size <= 1) return {};
  const Index units = std::min(shape.size, load.panels);
  shape.row_groups = std::clamp<Index>(shape.size / units, 1, std::max<Index>(load.rows / machine.rows_of_a_group, 1));
  shape.size = units * shape.row_groups;
  return shape;
}

// The time of a call whose team may have `most` threads.
static double seconds_shared(const Workload& load, const Machine& machine, Index most) {
  const Index threads = team_for(load, machine, most).size;
  return seconds_alone(load, machine) / static_cast<double>(threads) +
         (threads > 1 ? machine.barrier * static_cast<double>(load.barriers) : 0);
}

bool suits_one_core(const Workload& load, const Machine& machine) {
  if (load.steps == 0) return false;
  const double products = load.flops / static_cast<double>(load.steps) / (machine.flops_per_lane * load.lanes);
  return load.weight_bytes <= machine.l2_bytes || machine.l3_margin * load.weight_bytes / machine.l3_bytes < products;
}

Index shares_of_rows(const Workload& load, const Machine& machine) {
  const bool small = load.weight_bytes <= machine.l2_share * machine.l2_bytes / 2;
  const Index rows = small ? machine.rows_of_a_share : machine.rows_of_a_large_share;
  if (load.rows < 2 * rows || load.steps == 0 || seconds_alone(load, machine) < machine.region) return 1;
  Workload share = load;
  share.flops /= static_cast<double>(machine.threads);
  return load.rows >= machine.threads * rows && suits_one_core(share, machine) ? machine.threads : 1;
}

Index threads_for_packing(double bytes, const Machine& machine) {
  if (bytes < machine.pack_alone_bytes) return 1;
  return std::min(machine.threads, static_cast<Index>(bytes / machine.pack_bytes_of_a_thread));
}

bool step_is_shareable(double weight_bytes, const Machine& machine) {
  return weight_bytes > machine.l2_share * machine.l2_bytes;
}

Index threads_for_step(const Workload& load, const Machine& machine, bool awake) {
  const double region = awake ? machine.warm_region : machine.region;
  return std::clamp<Index>(static_cast<Index>(seconds_alone(load, machine) / region), 1, machine.threads);
}

namespace {

// Independent calls that run side by side need no barriers between them, but every core then reads all weights of its
// call. This pays while the weights suit one core, and while no call is so long that the threads of the others have to
// wait for it.
class SideBySide {
 public:
  SideBySide(const std::vector<Workload>& loads, const Machine& machine) : loads_(loads), machine_(machine) {
    double seconds = 0;
    for (std::size_t i = 0; i < loads.size(); ++i)
      if (suits_one_core(loads[i], machine)) calls_.push_back(i), seconds += seconds_alone(loads[i], machine);
    if (calls_.size() < 2 || seconds <= machine.region || machine.threads < 2) {
      calls_.clear();
      return;
    }
    std::stable_sort(calls_.begin(), calls_.end(), [&](std::size_t a, std::size_t b) {
      return seconds_alone(loads[a], machine) > seconds_alone(loads[b], machine);
    });
    // If there are as many calls as threads, or a multiple, each thread takes whole calls, the longest first; the calls
    // that remain share the threads.
    const std::size_t threads = static_cast<std::size_t>(machine.threads), left = calls_.size() % threads;
    share_ = left ? static_cast<Index>(threads / left) : 1;
    queued_ = calls_.size() - left;
    if (queued_ > 0 && (left == 0 || team_for(loads[calls_[queued_]], machine, share_).size == 1))
      queued_ = calls_.size();
    double apart = 0;
    for (const std::size_t i : calls_) apart += seconds_shared(loads[i], machine, machine.threads);
    if (queue_seconds() + teams_seconds() > apart) calls_.clear();
  }

  bool has(std::size_t call) const { return std::find(calls_.begin(), calls_.end(), call) != calls_.end(); }
  bool empty() const { return calls_.empty(); }

  void add_to(std::vector<Stage>& plan) const {
    const auto middle = calls_.begin() + static_cast<std::ptrdiff_t>(queued_);
    if (queued_ > 0) {
      Stage stage{Stage::kQueue, {calls_.begin(), middle}, {}, machine_.threads};
      stage.seconds = queue_seconds();
      plan.push_back(std::move(stage));
    }
    if (middle == calls_.end()) return;
    Stage stage{Stage::kTeams, {middle, calls_.end()}, {}, 0};
    for (const std::size_t i : stage.calls) {
      stage.teams.push_back(team_for(loads_[i], machine_, share_));
      stage.threads += stage.teams.back().size;
    }
    stage.seconds = teams_seconds();
    plan.push_back(std::move(stage));
  }

 private:
  double queue_seconds() const {
    std::vector<double> busy(static_cast<std::size_t>(machine_.threads));  // when each thread becomes free
    for (std::size_t i = 0; i < queued_; ++i)
      *std::min_element(busy.begin(), busy.end()) += seconds_alone(loads_[calls_[i]], machine_);
    return *std::max_element(busy.begin(), busy.end());
  }
  double teams_seconds() const {  // the first remaining call is the longest
    return queued_ < calls_.size() ? seconds_shared(loads_[calls_[queued_]], machine_, share_) : 0;
  }

  const std::vector<Workload>& loads_;
  const Machine& machine_;
  std::vector<std::size_t> calls_;  // longest first
  std::size_t queued_ = 0;
  Index share_ = 1;
};

Stage one_call(const std::vector<Workload>& loads, std::size_t call, const Machine& machine) {
  const Workload& load = loads[call];
  if (load.divisible)
    if (const Index shares = shares_of_rows(load, machine); shares > 1)
      return {Stage::kRows, {call}, {}, shares, 0, seconds_alone(load, machine) / static_cast<double>(shares)};
  const TeamShape shape = team_for(load, machine, machine.threads);
  return {Stage::kTeam, {call}, {shape}, shape.size, 0, seconds_shared(load, machine, machine.threads)};
}

Index steps_behind(const Workload& load, const Machine& machine) {
  return std::clamp<Index>(load.steps / machine.steps_behind_part, machine.fewest_steps_behind,
                           machine.most_steps_behind);
}

// How many of the stacked calls, from `first` on, should run as a wavefront rather than one after the other on all
// threads: as many as there are threads for, or one. Each core of a wavefront reads all weights of its layer.
Index wavefront(const std::vector<Workload>& loads, std::size_t first, const Machine& machine) {
  const Index count = static_cast<Index>(loads.size() - first);
  double seconds = 0, apart = 0, slowest = 0;
  for (std::size_t l = first; l < loads.size(); ++l) seconds += seconds_alone(loads[l], machine);
  const Index threads = machine.threads, layers = std::min(threads, count);
  if (layers < 2 || loads[first].steps == 0 || seconds < machine.region) return 1;
  for (std::size_t l = first; l < first + static_cast<std::size_t>(layers); ++l) {
    apart += one_call(loads, l, machine).seconds;
    slowest = std::max(slowest, seconds_shared(loads[l], machine, threads / layers));
    if (threads / layers == 1 && !suits_one_core(loads[l], machine)) return 1;
  }
  const double steps = static_cast<double>(loads[first].steps);
  const double behind = static_cast<double>((layers - 1) * steps_behind(loads[first], machine)) / steps;
  return slowest * (1 + behind) < apart ? layers : 1;
}

void decide_stacked(const std::vector<Workload>& loads, const Machine& machine, std::vector<Stage>& plan) {
  for (std::size_t i = 0; i < loads.size();) {
    const Index layers = wavefront(loads, i, machine);
    if (layers == 1) {
      plan.push_back(one_call(loads, i++, machine));
      continue;
    }
    Stage stage{Stage::kWavefront, {}, {}, 0, steps_behind(loads[i], machine)};
    for (Index l = 0; l < layers; ++l, ++i) {
      const Index share = machine.threads / layers;
      stage.calls.push_back(i);
      stage.teams.push_back(team_for(loads[i], machine, share));
      stage.threads += stage.teams.back().size;
      stage.seconds = std::max(stage.seconds, seconds_shared(loads[i], machine, share));
    }
    plan.push_back(std::move(stage));
  }
}

}  // namespace

std::vector<Stage> decide(const std::vector<Workload>& loads, Order order, const Machine& machine) {
  std::vector<Stage> plan;
  if (order == Order::kStacked) {
    decide_stacked(loads, machine, plan);
    return plan;
  }
  const SideBySide together(loads, machine);
  if (!together.empty()) together.add_to(plan);
  for (std::size_t i = 0; i < loads.size(); ++i)
    if (!together.has(i)) plan.push_back(one_call(loads, i, machine));
  return plan;
}

}  // namespace fusedrnn
