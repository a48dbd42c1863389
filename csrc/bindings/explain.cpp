// What a call would do, for `fusedrnn.explain` and for tests of core/policy.h: workloads, machines and plans as dicts.
#include "../core/policy.h"
#include "../core/run.h"
#include "arrays.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

namespace {

template <class S>
struct Fields {
  std::vector<std::pair<const char*, double S::*>> numbers;
  std::vector<std::pair<const char*, Index S::*>> counts;
};

const Fields<Machine>& machine_fields() {
  static const Fields<Machine>& fields =
      *new Fields<Machine>{{{"l2_bytes", &Machine::l2_bytes},
                            {"flops_per_lane", &Machine::flops_per_lane},
                            {"read_bytes", &Machine::read_bytes},
                            {"l3_bytes", &Machine::l3_bytes},
                            {"barrier", &Machine::barrier},
                            {"region", &Machine::region},
                            {"warm_region", &Machine::warm_region},
                            {"forked_region", &Machine::forked_region},
                            {"l2_share", &Machine::l2_share},
                            {"l3_margin", &Machine::l3_margin},
                            {"pack_alone_bytes", &Machine::pack_alone_bytes},
                            {"pack_bytes_of_a_thread", &Machine::pack_bytes_of_a_thread}},
                           {{"threads", &Machine::threads},
                            {"rows_of_a_group", &Machine::rows_of_a_group},
                            {"rows_of_a_share", &Machine::rows_of_a_share},
                            {"rows_of_a_large_share", &Machine::rows_of_a_large_share},
                            {"steps_behind_part", &Machine::steps_behind_part},
                            {"fewest_steps_behind", &Machine::fewest_steps_behind},
                            {"most_steps_behind", &Machine::most_steps_behind}}};
  return fields;
}

const Fields<Workload>& workload_fields() {
  static const Fields<Workload>& fields =
      *new Fields<Workload>{{{"flops", &Workload::flops}, {"weight_bytes", &Workload::weight_bytes}},
                            {{"steps", &Workload::steps},
                             {"rows", &Workload::rows},
                             {"panels", &Workload::panels},
                             {"barriers", &Workload::barriers}}};
  return fields;
}

template <class S>
py::dict to_dict(const S& s, const Fields<S>& fields) {
  py::dict dict;
  for (const auto& [name, member] : fields.numbers) dict[name] = s.*member;
  for (const auto& [name, member] : fields.counts) dict[name] = s.*member;
  return dict;
}

template <class S>
S from_dict(const py::dict& dict, const Fields<S>& fields) {
  S s;
  for (const auto& [name, member] : fields.numbers)
    if (dict.contains(name)) s.*member = py::cast<double>(dict[name]);
  for (const auto& [name, member] : fields.counts)
    if (dict.contains(name)) s.*member = py::cast<Index>(dict[name]);
  return s;
}

py::dict to_dict(const Workload& load) {
  py::dict dict = to_dict(load, workload_fields());
  dict["lanes"] = load.lanes, dict["divisible"] = load.divisible;
  return dict;
}

Workload load_of(const py::dict& dict) {
  Workload load = from_dict(dict, workload_fields());
  load.lanes = py::cast<int>(dict["lanes"]), load.divisible = py::cast<bool>(dict["divisible"]);
  return load;
}

template <class T>
py::dict measure(const std::shared_ptr<WeightsBase>& base, const std::shared_ptr<Schedule>& schedule, bool tokens,
                 bool training, bool masked) {
  // Non-null addresses that say which arrays there are; nothing is read.
  static const std::int64_t id = 0;
  static const T one = 1;
  const auto weights = std::static_pointer_cast<const Weights<T>>(base);
  ForwardArrays<T> arrays;
  if (tokens) arrays.tokens = &id;
  if (masked) arrays.recurrent_mask = &one;
  const Measured forward = ForwardCall<T>::measure(weights, schedule, arrays, training);
  py::dict dict("form"_a = name_of(forward.form), "forward"_a = to_dict(forward.load),
                "chunk_rows"_a = forward.chunk_rows, "lasting_bytes"_a = forward.lasting_bytes,
                "scratch_bytes"_a = forward.scratch_bytes);
  if (!training) return dict;
  Tape<T> tape;
  tape.weights = weights, tape.schedule = schedule, tape.form = forward.form, tape.tokens = arrays.tokens;
  const Measured backward = BackwardCall<T>::measure(tape, !tokens);
  dict["backward"] = to_dict(backward.load);
  dict["backward_chunk_rows"] = backward.chunk_rows;
  dict["backward_bytes"] = backward.scratch_bytes;
  return dict;
}

py::list decide_bound(const py::list& given, const std::string& order, const py::dict& machine) {
  std::vector<Workload> loads;
  for (const py::handle& load : given) loads.push_back(load_of(py::cast<py::dict>(load)));
  require(order == "independent" || order == "stacked", "decide: the order is independent or stacked");
  static constexpr const char* kWays[] = {"team", "rows", "queue", "teams", "wavefront"};
  py::list plan;
  for (const Stage& stage : decide(loads, order == "stacked" ? Order::kStacked : Order::kIndependent,
                                   from_dict(machine, machine_fields()))) {
    py::list calls, teams;
    for (const std::size_t call : stage.calls) calls.append(call);
    for (const TeamShape& team : stage.teams) teams.append(py::make_tuple(team.size, team.row_groups));
    plan.append(py::dict("way"_a = kWays[stage.way], "calls"_a = calls, "teams"_a = teams, "threads"_a = stage.threads,
                         "behind"_a = stage.behind, "seconds"_a = stage.seconds));
  }
  return plan;
}

}  // namespace

void add_explain(py::module_& module) {
  module.def(
      "machine",
      [](bool threads) {
        Machine machine = this_machine();
        if (threads) machine.threads = ThreadLimit().most();
        return to_dict(machine, machine_fields());
      },
      "threads"_a = true);
  module.def(
      "measure",
      [](const std::shared_ptr<WeightsBase>& weights, const std::shared_ptr<Schedule>& schedule, bool tokens,
         bool training, bool masked) {
        return with_dtype(weights->dtype, [&](auto zero) {
          return measure<decltype(zero)>(weights, schedule, tokens, training, masked);
        });
      },
      "weights"_a, "schedule"_a, "tokens"_a, "training"_a, "masked"_a = false);
  module.def("decide", &decide_bound, "loads"_a, "order"_a, "machine"_a);
  module.def(
      "step_threads",
      [](const py::dict& load, const py::dict& machine, bool awake) {
        const Workload given = load_of(load);
        const Machine on = from_dict(machine, machine_fields());
        return step_is_shareable(given.weight_bytes, on) ? threads_for_step(given, on, awake) : 1;
      },
      "load"_a, "machine"_a, "awake"_a);
}

}  // namespace fusedrnn::python
