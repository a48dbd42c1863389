#include "run.h"

#include <atomic>
#include <utility>

#include "cpu.h"

namespace fusedrnn {

Machine this_machine() {
  Machine machine;
  machine.l2_bytes = static_cast<double>(l2_bytes());
  machine.barrier *= barrier_slowness();
  if (after_fork()) machine.region = machine.warm_region = machine.forked_region;
  return machine;
}

Machine machine_for(double seconds, ThreadLimit& threads) {
  Machine machine;
  if (seconds < (after_fork() ? machine.forked_region : machine.region)) return machine;
  machine = this_machine();
  machine.threads = threads.most();
  return machine;
}

static void run_teams_of(std::vector<TeamWork> teams, Interrupt interrupt) {
  if (!run_teams(std::move(teams), interrupt.check, interrupt.argument)) throw Interrupted();
}

void run(const std::vector<Stage>& plan, const Calls& calls, Interrupt interrupt) {
  for (const Stage& stage : plan) {
    std::vector<TeamWork> teams;
    std::vector<Work> shares;
    std::atomic<std::size_t> next{0};
    switch (stage.way) {
      case Stage::kTeam:
      case Stage::kTeams:
        for (std::size_t i = 0; i < stage.calls.size(); ++i)
          teams.push_back({stage.teams[i], calls.works[stage.calls[i]]});
        break;
      case Stage::kRows:
        shares = calls.by_rows(stage.calls[0], stage.threads);
        for (const Work& share : shares) teams.push_back({{}, share});
        break;
      case Stage::kQueue: {
        const Work take = [&](Member& m) {
          for (std::size_t i; (i = next++) < stage.calls.size();) calls.works[stage.calls[i]](m);
        };
        teams.assign(static_cast<std::size_t>(stage.threads), {{}, take});
        break;
      }
      case Stage::kWavefront:
        // The last layer first: its thread, which checks for signals, is the last to finish.
        for (std::size_t i = stage.calls.size(); i-- > 0;) {
          calls.keep_close(stage.calls[i], stage.behind);
          teams.push_back({stage.teams[i], calls.works[stage.calls[i]], i > 0});
        }
        break;
    }
    run_teams_of(std::move(teams), interrupt);
  }
}

}  // namespace fusedrnn
